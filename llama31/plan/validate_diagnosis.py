"""Validate the settings of profiling and memory snapshots."""

from collections.abc import Iterator

from llama31.config import devices
from llama31.config.parallel_layout import Layout
from llama31.config.problem import Problem, assignment
from llama31.settings import Device, Profiler, Settings


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield profiling without its device, of steps and ranks that do not exist, and settings without effect."""
    usual = Settings()
    on_cpu = devices.device(settings) is Device.cpu
    if settings.memory_snapshot and on_cpu:
        yield Problem("memory_snapshot", "MEMORY_SNAPSHOT=1: records GPU memory, this runs on the CPU", (False,))
    if settings.profile is Profiler.none:
        for name in ("profile_step_start", "profile_step_end", "profile_ranks"):
            if (value := getattr(settings, name)) != getattr(usual, name):
                yield Problem(name, f"{assignment(name, value)}: does nothing without PROFILE", (getattr(usual, name),))
        return
    if settings.profile is Profiler.nsys and on_cpu:
        yield Problem("profile", "PROFILE=nsys: records GPUs, this runs on the CPU", (Profiler.torch, Profiler.none))
    first, last, world_size = settings.profile_step_start, settings.profile_step_end, Layout.of(settings).world_size
    if last < first:
        what = f"PROFILE_STEP_END={last}: must not be below PROFILE_STEP_START={first}"
        yield Problem("profile_step_end", what, (first,))
    if settings.stop_at_step is not None and first > settings.stop_at_step:
        what = f"PROFILE_STEP_START={first}: must not be above STOP_AT_STEP={settings.stop_at_step}"
        yield Problem("profile_step_start", what, (settings.stop_at_step,))
    ranks = settings.profile_ranks.split()
    if unknown := [rank for rank in ranks if int(rank) >= world_size]:
        what = f"PROFILE_RANKS={settings.profile_ranks}: there is no rank {unknown[0]}, but 0 to {world_size - 1}"
        yield Problem("profile_ranks", what, (" ".join(rank for rank in ranks if rank not in unknown) or "0",))
