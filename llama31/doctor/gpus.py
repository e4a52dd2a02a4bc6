"""Check the GPUs of a node, as torch sees them, and their driver."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from llama31.common.units import size
from llama31.config import devices
from llama31.doctor import limits, troubles
from llama31.doctor.context import ON_NODES, Context
from llama31.doctor.findings import Finding, ok
from llama31.settings import Device

FREE_SHARE = 0.95  # of a GPU's memory; drivers and displays use a little
# Runs in a separate process, which can be killed if a driver hangs.
QUERY = """\
import json, torch
found = {"torch": torch.__version__, "built": bool(torch.version.cuda or torch.version.hip), "gpus": []}
for number in range(torch.cuda.device_count()):
    free, memory = torch.cuda.mem_get_info(number)
    found["gpus"].append({"name": torch.cuda.get_device_name(number), "free": free, "memory": memory})
print(json.dumps(found))
"""


def check(context: Context) -> Iterator[Finding]:
    """Check that there are as many GPUs as the settings ask for, of the right kind, with free memory."""
    settings = context.settings
    if devices.device(settings) is Device.cpu:
        yield ok(f"none needed: the ranks of each node, {settings.gpus_per_node}, run on the CPU")
        return
    if devices.is_elsewhere(settings):
        yield ok(ON_NODES)
        return
    done = limits.output([sys.executable, "-c", QUERY], context.command_timeout)
    if done.returncode:
        yield troubles.NO_TORCH.found(error=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return
    found = json.loads(done.stdout.splitlines()[-1])
    gpus: list[dict[str, Any]] = found["gpus"]
    # With --gpus-per-task each task only sees its own GPU.
    wanted = 1 if context.task and "SLURM_GPUS_PER_TASK" in os.environ else settings.gpus_per_node
    if not found["built"]:
        yield troubles.CPU_BUILD.found(version=found["torch"])
    elif not gpus:
        yield troubles.NO_GPU.found()
    elif len(gpus) < wanted:
        yield troubles.FEW_GPUS.found(number=len(gpus), wanted=wanted)
    for number, gpu in enumerate(gpus):
        if gpu["free"] < FREE_SHARE * gpu["memory"]:
            taken = size(gpu["memory"] - gpu["free"])
            yield troubles.GPU_IN_USE.found(number=number, taken=taken, memory=size(gpu["memory"]))
    for name in sorted({gpu["name"] for gpu in gpus}):
        same = [gpu for gpu in gpus if gpu["name"] == name]
        if settings.gpu and not re.search(rf"\b{settings.gpu}\b", name):
            yield troubles.WRONG_GPU.found(gpu=settings.gpu, name=name)
        yield ok(f"{len(same)} x {name}, {size(same[0]['memory'])} each{_driver(context)}")


def _driver(context: Context) -> str:
    """Return the version of NVIDIA's driver, if nvidia-smi is installed."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = limits.output(query, context.command_timeout)
    return f", driver {done.stdout.split()[0]}" if done.returncode == 0 and done.stdout.strip() else ""
