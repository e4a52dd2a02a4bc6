"""Which logs a user means. Standard library alone, so that a mistake is told at once."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.config import paths

RESULTS = "result_*.txt"
"""Logs of a submission, as MLCommons publishes them."""


def find(given: Iterable[Path]) -> list[Path]:
    """MLPerf logs of run directories, of directories of a submission's results, and logs themselves; each once.

    Raises UserError where there is none.
    """
    found: dict[Path, Path] = {}
    for path in given:
        with failures_named(path):
            for log in _logs_at(path):
                found.setdefault(log.resolve(), log)
    return list(found.values())


def _logs_at(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"{path}: no such file; give a run directory or an MLPerf log")
        if not path.is_file():
            raise UserError(f"{path}: no file; give a run directory or an MLPerf log")
        return [path]
    directory = paths.latest_run(path)
    if (directory / paths.MLPERF_LOG).is_file():
        return [directory / paths.MLPERF_LOG]
    if results := sorted(path.glob(RESULTS), key=_number):
        return results
    raise UserError(f"{path}: has no {paths.MLPERF_LOG} and no {RESULTS}; give a run directory or an MLPerf log")


def _number(result: Path) -> tuple[int, str]:
    """result_10.txt comes after result_9.txt."""
    number = re.search(r"\d+", result.name)
    return (int(number[0]) if number else 0, result.name)


def names(logs: Sequence[Path]) -> list[str]:
    """Short names: the paths below the directory that all have in common, without what all of them end in."""
    places = [log.parent if log.name == paths.MLPERF_LOG else log.with_suffix("") for log in map(Path.resolve, logs)]
    if len(places) == 1:
        return [places[0].name]
    common = os.path.commonpath([place.parent for place in places])
    shown = [place.relative_to(common).as_posix() for place in places]
    return shown if len(set(shown)) == len(shown) else [log.relative_to(common).as_posix() for log in logs]
