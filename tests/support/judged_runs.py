"""Judges several runs' logs together, and names them as findings do."""

from functools import partial
from pathlib import Path

from submissions import NEWEST

from llama31.config import paths
from llama31.mlperf.check import submission
from llama31.mlperf.check.submission import SubmissionCheck

judge = partial(submission.judge, ruleset=NEWEST)


def log(run: Path) -> Path:
    return run / paths.MLPERF_LOG


def name(run: Path) -> str:
    """How findings name a run's log: below the directory of all of them."""
    return f"{run.name}/{paths.MLPERF_LOG}"


def printed(found: SubmissionCheck) -> str:
    return "\n".join(submission.lines(found))
