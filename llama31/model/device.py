"""The device of a run and what is installed for it, by torch. `config/devices.py` guesses it without torch."""

import os
import resource
from dataclasses import dataclass
from typing import Literal

from llama31.common.errors import UserError
from llama31.config import cuda_graphs, low_precision, transformer_engine
from llama31.config.problem import assignment
from llama31.estimates import gpus
from llama31.estimates.gpus import GPUS, Gpu, by_device_name
from llama31.settings import Device, Settings


@dataclass(frozen=True)
class Backend:
    """Device and libraries that the recipe builds for."""

    accelerator: Literal["gpu", "cpu"]
    """Lightning's name for the kind of device."""
    transformer_engine: bool
    """Whether the layers are NVIDIA Transformer Engine's; otherwise torch's."""

    @property
    def process_group_backend(self) -> Literal["nccl", "gloo"]:
        """Backend of the collectives between ranks."""
        return "nccl" if self.accelerator == "gpu" else "gloo"


def detect(settings: Settings) -> Backend:
    """Return the backend for DEVICE on this machine.

    Raises UserError if there is no such device, or if it lacks what the settings need.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    if settings.device is Device.cuda and not has_cuda:
        raise UserError("DEVICE=cuda: torch finds no CUDA device here; DEVICE=cpu works on every machine")
    if settings.device is Device.cpu or not has_cuda:
        return require(settings, Backend("cpu", transformer_engine=False))
    cuda_graphs.check_allocator(settings, os.environ)
    found = require(settings, Backend("gpu", transformer_engine=transformer_engine.is_installed()))
    if low_precision.recipe(settings):
        recipes = gpus.recipes(None if torch.version.hip else torch.cuda.get_device_capability())
        for problem in low_precision.not_run_by(settings, torch.cuda.get_device_name(), recipes):
            raise UserError(f"{problem.what}; {assignment(problem.name, problem.candidates[0])} works")
    return found


def gpu(settings: Settings) -> Gpu | None:
    """Return the entry of the GPU table for the setting GPU, else for this machine's GPU; None if unknown."""
    import torch

    if settings.gpu or settings.device is Device.cpu or not torch.cuda.is_available():
        return GPUS.get(settings.gpu)
    return by_device_name(torch.cuda.get_device_name())


def peak_memory() -> int:
    """Return the peak memory of this process so far, bytes: of tensors on its GPU, else resident memory."""
    import torch

    if torch.cuda.is_available():  # False within cpu_backend(), also on a machine with GPUs
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB


def require(settings: Settings, backend: Backend) -> Backend:
    """Return `backend`. Raises UserError for each setting that needs a Transformer Engine that it does not have."""
    if backend.transformer_engine:
        return backend
    reason = transformer_engine.ON_CPU if backend.accelerator == "cpu" else transformer_engine.NOT_INSTALLED
    problems = list(transformer_engine.problems_without(settings, reason))
    if problems:
        raise UserError(
            f"{problem.what}; {assignment(problem.name, problem.candidates[0])} works" for problem in problems
        )
    return backend
