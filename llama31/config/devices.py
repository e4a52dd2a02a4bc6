"""Kind and number of devices of a run, found from the machine's device files, without torch."""

import os
from pathlib import Path

from llama31.settings import Device, Settings

DEVICE_FILES = Path("/dev")
IN_JOB = "LLAMA31_IN_JOB"
"""Variable set inside the Slurm job that the settings asked for."""


def is_elsewhere(settings: Settings) -> bool:
    """Return whether the run will be on other machines: in a Slurm job that is yet to be submitted."""
    return bool(settings.partition) and IN_JOB not in os.environ


def is_through_ssh(settings: Settings) -> bool:
    """Return whether the job is yet to be submitted through HOST, whose file system then counts."""
    return bool(settings.host) and is_elsewhere(settings)


def device(settings: Settings) -> Device:
    """Return the kind of device that the run will use: DEVICE, or for `auto` cuda if this machine has GPU device files.

    `llama31.model.device` has the last word, by torch. The nodes of a job yet to be submitted are assumed to have CUDA.
    """
    if settings.device is not Device.auto:
        return settings.device
    if is_elsewhere(settings):
        return Device.cuda
    return Device.cpu if gpus() == 0 else Device.cuda


def gpus() -> int | None:
    """Return the number of GPUs that a process may use; None if there are GPUs that cannot be counted."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1"):
        return 0
    numbered = sum(file.name.removeprefix("nvidia").isdecimal() for file in DEVICE_FILES.glob("nvidia*"))
    if numbered and visible:
        return len(visible.split(","))
    if numbered:
        return numbered
    return None if any((DEVICE_FILES / file).exists() for file in ("nvidiactl", "kfd", "dxg")) else 0


def missing_gpus(settings: Settings) -> str | None:
    """Return an error line if the run asks for more GPUs than this machine has; None for runs elsewhere."""
    if is_elsewhere(settings):
        return None
    here = gpus()
    if device(settings) is Device.cpu or here is None or here >= settings.gpus_per_node:
        return None
    if here == 0:
        return "DEVICE=cuda: this machine has no GPU; DEVICE=cpu works"
    return f"GPUS_PER_NODE={settings.gpus_per_node}: this machine has {here}; GPUS_PER_NODE={here} works"
