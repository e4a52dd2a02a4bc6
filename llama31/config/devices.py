"""The kind and number of devices that a run finds, by a look at the machine's device files; nothing heavy."""

import os
from pathlib import Path

from llama31.settings import Device, Settings

DEVICE_FILES = Path("/dev")
IN_JOB = "LLAMA31_IN_JOB"
"""Variable that says that this process is part of the Slurm job that the settings asked for."""


def is_elsewhere(settings: Settings) -> bool:
    """Whether the run takes place on other machines than this one: in a Slurm job that is still to be submitted."""
    return bool(settings.partition) and IN_JOB not in os.environ


def is_through_ssh(settings: Settings) -> bool:
    """Whether it is still to be submitted, and from another machine: that one's file system is what counts."""
    return bool(settings.host) and is_elsewhere(settings)


def device(settings: Settings) -> Device:
    """The kind of device the run will use, by a look at the machine's device files; torch has the last word.

    Of the nodes that a job will get nothing is known here; they are taken to have CUDA.
    """
    if settings.device is not Device.auto:
        return settings.device
    if is_elsewhere(settings):
        return Device.cuda
    return Device.cpu if gpus() == 0 else Device.cuda


def gpus() -> int | None:
    """GPUs that a process of this machine may use; None where there are some and their number cannot be told."""
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
    """A line where DEVICE asks for GPUs that this machine lacks. A plan may be made here for another machine."""
    if is_elsewhere(settings):
        return None
    here = gpus()
    if device(settings) is Device.cpu or here is None or here >= settings.gpus_per_node:
        return None
    if here == 0:
        return "DEVICE=cuda: this machine has no GPU; DEVICE=cpu works"
    return f"GPUS_PER_NODE={settings.gpus_per_node}: this machine has {here}; GPUS_PER_NODE={here} works"
