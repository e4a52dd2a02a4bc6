"""Read the runs of a report: each run's log, and the other files of its run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llama31.common.errors import UserError, is_of_disk
from llama31.common.files import failures_named
from llama31.common.json_files import load_object
from llama31.common.progress import Progress
from llama31.config import paths
from llama31.report.find_logs import names
from llama31.report.logs import LogData, Metrics, read_log, read_metrics
from llama31.run_dir import record
from llama31.settings import Settings


@dataclass(frozen=True)
class ReportedRun:
    """One run, from its files."""

    name: str  # short, and unique within the report
    path: Path  # of its MLPerf log
    mlperf: LogData
    metrics: Metrics  # empty if the log is not in a run directory
    settings: Settings | None = None
    record: dict[str, Any] | None = None
    """Content of run.json; None if unreadable, since it only adds rows to the description of the run."""
    problems: Sequence[str] = ()  # why settings.yaml cannot be read

    @property
    def damages(self) -> list[str]:
        """Unreadable parts of its files as lines: how many, and the first ones."""
        found = list(self.problems)
        for name, damages in ((self.path.name, self.mlperf.damages), (paths.METRICS, self.metrics.damages)):
            if damages.count:
                found.append(f"{name}: {damages.count:,} damaged line{'s' if damages.count > 1 else ''}")
                found += [f"{name}, {damage}" for damage in damages.first]
                if damages.count > len(damages.first):
                    found.append(f"{name}: {damages.count - len(damages.first):,} more")
        return found


def read(logs: Sequence[Path]) -> list[ReportedRun]:
    """Read these logs and their run directories; show progress on a terminal."""
    files = [*logs, *(file for log in logs if (file := _metrics_of(log)))]
    with Progress("reading", sum(map(_size, files))) as progress:
        return [_read(log, name, progress) for log, name in zip(logs, names(logs), strict=True)]


def _read(log: Path, name: str, progress: Progress) -> ReportedRun:
    with failures_named(log):
        mlperf = read_log(log, progress.add)
    metrics = Metrics()
    if file := _metrics_of(log):
        with failures_named(file):
            metrics = read_metrics(file, progress.add)
    if not _is_in_run_directory(log):
        return ReportedRun(name, log, mlperf, metrics)
    settings, problems = _settings(log.parent)
    try:
        described = load_object(log.parent / paths.RECORD)
    except UserError as error:
        if is_of_disk(error) and (log.parent / paths.RECORD).exists():
            raise
        described = None
    return ReportedRun(name, log, mlperf, metrics, settings, described, problems)


def _size(file: Path) -> int:
    with failures_named(file):
        return file.stat().st_size


def _settings(run_dir: Path) -> tuple[Settings | None, list[str]]:
    """Return the settings of a run, or None and why: damaged, or written by a version with other settings.

    Raises UserError if a disk or file server fails: the next report may have them.
    """
    try:
        return record.load_settings(run_dir), []
    except UserError as error:
        if is_of_disk(error):
            raise
        return None, [f"{paths.SETTINGS}: {line}" for line in error.lines]
    except (ValueError, AttributeError, yaml.YAMLError) as error:
        return None, [f"{paths.SETTINGS}: {str(error).splitlines()[0]}"]


def _is_in_run_directory(log: Path) -> bool:
    return log.name == paths.MLPERF_LOG and (log.parent / paths.SETTINGS).is_file()


def _metrics_of(log: Path) -> Path | None:
    """Return the metrics file of the log's run directory, or None."""
    file = log.parent / paths.METRICS
    return file if _is_in_run_directory(log) and file.is_file() else None
