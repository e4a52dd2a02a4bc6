"""Find the logs that the user names. Imports only the standard library, so that user errors come at once."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named, real_path
from llama31.config import paths

RESULTS = "result_*.txt"
"""Logs of a submission, as MLCommons publishes them."""


def find(given: Iterable[Path]) -> list[Path]:
    """Return MLPerf logs, once each, given logs, run directories and directories of a submission's results.

    Raises UserError if one of these has no log.
    """
    found: dict[Path, Path] = {}
    for path in given:
        with failures_named(path):
            for log in _logs_at(path):
                found.setdefault(real_path(log), log)
    return list(found.values())


def _logs_at(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: no such file; give a run directory or an MLPerf log")
        if not path.is_file():
            raise UserError(f"{path}: not a regular file; give a run directory or an MLPerf log")
        return [path]
    directory = paths.latest_run(path)
    if (directory / paths.MLPERF_LOG).is_file():
        return [directory / paths.MLPERF_LOG]
    if results := sorted(path.glob(RESULTS), key=_number):
        return results
    raise UserError(f"{path}: has no {paths.MLPERF_LOG} and no {RESULTS}; give a run directory or an MLPerf log")


def _number(result: Path) -> tuple[int, str]:
    """Sort result_10.txt after result_9.txt."""
    number = re.search(r"\d+", result.name)
    return (int(number[0]) if number else 0, result.name)


def names(logs: Sequence[Path]) -> list[str]:
    """Return short, unique names: paths below the common directory, without a suffix that they share."""
    real = [real_path(log) for log in logs]
    stems = [log.parent if log.name == paths.MLPERF_LOG else log.with_suffix("") for log in real]
    if len(stems) == 1:
        return [stems[0].name]
    common = os.path.commonpath([stem.parent for stem in stems])
    short = [stem.relative_to(common).as_posix() for stem in stems]
    return short if len(set(short)) == len(short) else [log.relative_to(common).as_posix() for log in logs]
