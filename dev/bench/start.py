"""Time from the command to the first optimizer step of the demo's model, by part, beside a plain NeMo script.

    python3 -m dev.bench.start [--repeats 3]

    ours    bash run_llama31.sh with the demo's settings, two ranks: plan, checks, logs, MLPerf log, then training
    peer    torchrun of dev/bench/plain_nemo.py: as NeMo's documentation has it, the same model, data and ranks

Both with the index of the data already there, in turns. Prints for each part the median seconds that it took, ours and
the peer's, and of the whole the median ratio. Then, ours alone, what answers without training: --help, --dryrun and a
mistake, and the first start, which builds the index.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from dev.bench import random_data, watched_run
from llama31.config import paths
from llama31.run_dir import startup_log

VOCABULARY = 4096
TOKENS = 2_000_000
SETTINGS = {
    "SIZE": "demo",
    "DEVICE": "cpu",
    "GPUS_PER_NODE": 2,
    "PRECISION": "fp32",
    "SEQ_LENGTH": 256,
    "GBS": 8,
    "MBS": 4,
    "EVAL_SAMPLES": 8,
    "EVAL_EVERY": 1_000_000,
    "SEEDS": 1,
}
QUICK = {
    "--help": (["--help"], 0),
    "--dryrun": (["--dryrun"], 0),
    "a mistake": (["GBS=30"], 2),
}


def plain(data: dict[str, str], directory: Path) -> dict[str, float]:
    """Parts of the peer's start."""
    directory.mkdir(exist_ok=True)
    for log in directory.glob("rank-*.log"):
        log.unlink()
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={SETTINGS['GPUS_PER_NODE']}"]
    settings = [f"{name}={value}" for name, value in {**SETTINGS, **data}.items()]
    began, _, _ = watched_run.watch(
        [sys.executable, *torchrun, "--module", "dev.bench.plain_nemo", str(directory), *settings],
        PYTHONPATH=str(paths.REPOSITORY),
        OMP_NUM_THREADS="1",
        CUDA_VISIBLE_DEVICES="",
        TORCH_CUDA_ARCH_LIST="9.0",  # without which torch's CUDA build fails to compile where there is no GPU
    )
    return watched_run.parts(directory, began)


def took(ends: dict[str, float]) -> dict[str, float]:
    """Seconds of each part, from the end of the one before it."""
    known = [part for part in startup_log.PARTS if part in ends]
    return {part: ends[part] - (ends[before] if before else 0) for before, part in pairwise(["", *known])}


def seconds_of(options: list[str], wanted_exit_code: int) -> float:
    """How long run_llama31.sh takes to answer."""
    began = time.perf_counter()
    watched_run.watch(["bash", str(paths.REPOSITORY / "run_llama31.sh"), *options], wanted_exit_code)
    return time.perf_counter() - began


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        data = random_data.make(directory, VOCABULARY, TOKENS)
        settings = {**SETTINGS, **data, "JOB_DIR": directory / "runs", "STOP_AT_STEP": 1}
        first = watched_run.run(settings).parts
        plain(data, directory / "plain")  # builds its index
        ours, peer = [], []
        for _ in range(repeats):
            peer.append(plain(data, directory / "plain"))
            ours.append(watched_run.run(settings).parts)
        given = [f"{name}={value}" for name, value in settings.items()]
        quick = {
            name: statistics.median(seconds_of([*given, *options], code) for _ in range(repeats))
            for name, (options, code) in QUICK.items()
        }
    print(f"{'seconds to the end of':<40} {'ours':>7} {'peer':>7}   of which the part: {'ours':>7} {'peer':>7}")
    for part in startup_log.PARTS:
        ends = [statistics.median(one[part] for one in each) for each in (ours, peer)]
        parts = [statistics.median(took(one)[part] for one in each) for each in (ours, peer)]
        print(f"{part:<40} {ends[0]:7.2f} {ends[1]:7.2f} {'':>21} {parts[0]:7.2f} {parts[1]:7.2f}")
    ratios = [one[startup_log.STEPPED] / other[startup_log.STEPPED] for one, other in zip(ours, peer, strict=True)]
    print(f"ratio of the whole {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"the first start, which builds the index: {first[startup_log.STEPPED]:.2f} s")
    for name, seconds in quick.items():
        print(f"{name}: {seconds:.2f} s")


if __name__ == "__main__":
    main()
