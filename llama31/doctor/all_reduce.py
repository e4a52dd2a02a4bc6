"""Program of each rank in the doctor's all-reduce: sum a buffer over all ranks, and time it.

python -m llama31.doctor.all_reduce gloo|nccl SECONDS, with torchrun's environment variables. Each rank prints one line
of JSON: {"rank", "error"}, or {"rank", "right", "bytes", "bandwidth"}.
"""

import datetime
import json
import os
import statistics
import sys
import time
from typing import Any

BYTES = {"gloo": 16 << 20, "nccl": 256 << 20}  # of fp32 values
TIMES = 5  # repetitions, of which the median is reported


def bus_bandwidth(size: int, seconds: float, ranks: int) -> float:
    """Return the bytes per second over each link of an all-reduce of `size` bytes: size / seconds x 2 (n - 1) / n.

    So it does not depend on the number of ranks n, and is comparable with the hardware's bandwidth. Source: nccl-tests,
    doc/PERFORMANCE.md, "Bandwidth", which calls it bus bandwidth.
    """
    return size / seconds * 2 * (ranks - 1) / ranks


def main(backend: str, timeout: float) -> int:
    """Print this rank's result; return the exit code."""
    rank = int(os.environ["RANK"])
    try:
        found = _measure(backend, timeout)
    except Exception as error:  # noqa: BLE001 - the doctor reports any
        found = {"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    # In one write: all ranks of a machine share the pipe.
    os.write(sys.stdout.fileno(), json.dumps({"rank": rank, **found}).encode() + b"\n")
    return 1 if "error" in found else 0


def _measure(backend: str, timeout: float) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if backend == "nccl":
        if not torch.cuda.device_count():
            raise RuntimeError("torch finds no GPU")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=timeout))
    ranks = dist.get_world_size()
    values = torch.full((BYTES[backend] // 4,), float(dist.get_rank() + 1), device=device)
    dist.all_reduce(values)  # also connects the ranks, which must not count
    right = bool((values == ranks * (ranks + 1) / 2).all())
    seconds = []
    for _ in range(TIMES):
        values.fill_(1)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        if backend == "nccl":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    bandwidth = bus_bandwidth(BYTES[backend], statistics.median(seconds), ranks)
    dist.destroy_process_group()
    return {"right": right, "bytes": BYTES[backend], "bandwidth": bandwidth}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
