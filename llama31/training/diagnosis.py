"""Callbacks that show why a run is slow or fails."""

from pathlib import Path

import torch
from lightning.pytorch import Callback

from llama31.settings import Profiler, Settings
from llama31.training.memory_snapshot import MemorySnapshots
from llama31.training.profiler import ProfileSteps


def callbacks(settings: Settings, run_dir: Path, rank: int) -> list[Callback]:
    """Return the callbacks of this rank."""
    found: list[Callback] = []
    if settings.profile is not Profiler.none and str(rank) in settings.profile_ranks.split():
        found.append(ProfileSteps(settings, run_dir, rank))
    if torch.cuda.is_available():
        found.append(MemorySnapshots(run_dir, rank, records=settings.memory_snapshot))
    return found
