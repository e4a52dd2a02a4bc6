"""Run a rank under Nsight Systems (PROFILE=nsys)."""

import os
import shutil
import sys
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.run_dir import record
from llama31.settings import Profiler, Settings

PROGRAM = "nsys"
UNDER_NSYS = "LLAMA31_UNDER_NSYS"


def options(report: Path) -> list[str]:
    """Return the command in front of a rank's own, which records from cudaProfilerStart to cudaProfilerStop."""
    return [
        PROGRAM, "profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--cuda-graph-trace=node",
        "--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--force-overwrite=true", f"--output={report}",
    ]  # fmt: skip


def require(settings: Settings) -> None:
    """Raise UserError if the run needs nsys and this machine has none."""
    if settings.profile is Profiler.nsys and not shutil.which(PROGRAM):
        raise UserError(f"PROFILE=nsys: no {PROGRAM} on this machine; install Nsight Systems, or PROFILE=torch works")


def enter(run_dir: Path) -> None:
    """Replace this process of a rank by nsys and the rank under it, if that rank is to be profiled so."""
    rank = os.environ.get("RANK", "0")
    if UNDER_NSYS in os.environ:
        return
    try:
        settings = record.load_settings(run_dir)
    except UserError:  # the rank reports it
        return
    if settings.profile is Profiler.nsys and rank in settings.profile_ranks.split():
        directory = run_dir / paths.PROFILE
        directory.mkdir(exist_ok=True)
        os.environ[UNDER_NSYS] = "1"
        os.execvp(PROGRAM, [*options(directory / f"rank-{rank}"), sys.executable, *sys.argv])
