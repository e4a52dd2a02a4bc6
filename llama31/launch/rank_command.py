"""Command and environment of the ranks of a run, for torchrun and srun."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from llama31.config import devices, paths
from llama31.estimates.gpus import BLACKWELL
from llama31.settings import Device, Settings


def command(run_dir: Path) -> list[str]:
    """Return the command that each rank executes."""
    return [sys.executable, str(paths.REPOSITORY / "pretrain_llama31.py"), str(run_dir)]


STORE = "PET_RDZV_ENDPOINT"
"""Variable from which torchrun takes the file of its state, on a disk of this machine: it needs locks. By default it
makes one in the directory of temporary files, and leaves it there."""


def torchrun(ranks: int) -> list[str]:
    """Return the start of the command that starts ranks on this machine, with torchrun's state in a file.

    By default that is a pickle in a store which other machines can reach, and unpickling runs what a pickle names.
    """
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-conf=store_type=file", "--local-addr=localhost"]
    return ["-m", "torch.distributed.run", *rendezvous, "--max-restarts=0", f"--nproc-per-node={ranks}"]


def environment(settings: Settings, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the ranks: the given one, with this machine's cores divided among CPU ranks.

    Slurm's variables are left out: Lightning would use them, but it gets the ranks from torch's variables.
    """
    ours = {name: value for name, value in given.items() if not name.startswith("SLURM_")}
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, (str(paths.REPOSITORY), ours.get("PYTHONPATH"))))
    if devices.device(settings) is Device.cpu:
        cores = len(os.sched_getaffinity(0))
        ours.setdefault("OMP_NUM_THREADS", str(max(1, cores // settings.gpus_per_node)))
        ours["CUDA_VISIBLE_DEVICES"] = ""
    else:
        if settings.gpus_per_node > 1:
            ours.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: each rank would take all cores
        if settings.tensor_parallel_size > 1 or settings.context_parallel_size > 1:
            # NeMo requires it, so that communication starts before the concurrent matrix product fills the GPU.
            ours.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32" if settings.gpu in BLACKWELL else "1")
    if settings.wandb:
        ours.setdefault("WANDB_PROJECT", "llama31")
    return ours
