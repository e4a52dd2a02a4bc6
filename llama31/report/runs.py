"""The runs that a report is about: each one's log, and what lies beside it in a run directory."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.reading import Reading
from llama31.config import paths
from llama31.report.find_logs import names
from llama31.report.logs import LogData, Metrics, read_log, read_metrics
from llama31.run_dir import record
from llama31.settings import Settings


@dataclass(frozen=True)
class ReportedRun:
    """One run, as far as its files say."""

    name: str
    """Short, and different for each run of a report."""
    path: Path
    """Its MLPerf log."""
    mlperf: LogData
    metrics: Metrics
    """Empty where the log lies alone."""
    settings: Settings | None = None
    record: dict[str, Any] | None = None
    """Versions, command, commit and so on, as `llama31.launch.run_directory.describe` gives them."""
    problems: Sequence[str] = ()
    """Files of the run directory that cannot be read, and why."""

    @property
    def damages(self) -> list[str]:
        """What could not be read in its files, in words: how much, and the first of it line by line."""
        said = list(self.problems)
        for name, damages in ((self.path.name, self.mlperf.damages), (paths.METRICS, self.metrics.damages)):
            if damages.count:
                said.append(f"{name}: {damages.count:,} damaged line{'s' if damages.count > 1 else ''}")
                said += [f"{name}, {damage}" for damage in damages.first]
                if damages.count > len(damages.first):
                    said.append(f"{name}: {damages.count - len(damages.first):,} more")
        return said


def read(logs: Sequence[Path]) -> list[ReportedRun]:
    """Reads all that these logs, and the run directories that they lie in, say; shows progress on a terminal."""
    files = [*logs, *(file for log in logs if (file := _metrics_of(log)))]
    with Reading("reading", sum(map(_size, files)), sys.stderr) as reading:
        return [_read(log, name, reading) for log, name in zip(logs, names(logs), strict=True)]


def _read(log: Path, name: str, reading: Reading) -> ReportedRun:
    with failures_named(log):
        mlperf = read_log(log, reading.add)
    metrics = Metrics()
    if file := _metrics_of(log):
        with failures_named(file):
            metrics = read_metrics(file, reading.add)
    if not _is_of_run_directory(log):
        return ReportedRun(name, log, mlperf, metrics)
    settings, problem = _settings(log.parent)
    return ReportedRun(name, log, mlperf, metrics, settings, _record(log.parent / paths.RECORD), problem)


def _size(file: Path) -> int:
    with failures_named(file):
        return file.stat().st_size


def _settings(run_dir: Path) -> tuple[Settings | None, list[str]]:
    """Settings of a run; none, and why, where they are damaged, or of a version that had others."""
    try:
        return record.load_settings(run_dir), []
    except UserError as error:
        return None, [f"{paths.SETTINGS}: {line}" for line in error.lines]
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        return None, [f"{paths.SETTINGS}: {str(error).splitlines()[0]}"]


def _is_of_run_directory(log: Path) -> bool:
    return log.name == paths.MLPERF_LOG and (log.parent / paths.SETTINGS).is_file()


def _metrics_of(log: Path) -> Path | None:
    """Metrics beside a log, if it is of a run directory that has some."""
    file = log.parent / paths.METRICS
    return file if _is_of_run_directory(log) and file.is_file() else None


def _record(file: Path) -> dict[str, Any] | None:
    """What ran, where the file is there and whole: a run that was cut off while it wrote this never began."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
