"""What a run left behind, read once from end to end: its MLPerf log, of this project or another, and its metrics.

Memory follows what is said, and not the size of the files: statistics of each step go into arrays.
"""

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama31.errors import UserError
from llama31.mlperf.lines import BLOCK, parsed, scan, why
from llama31.mlperf.records import TRACKED_STATS, Damage, Damages, Log, Record, is_number


@dataclass
class Series:
    """One statistic over a run; all of a length. What a line does not say is nan."""

    samples: array = field(default_factory=lambda: array("d"))
    step: array = field(default_factory=lambda: array("d"))
    value: array = field(default_factory=lambda: array("d"))

    def add(self, value: Any, samples: Any, step: Any) -> None:
        """One more value, where that is a number."""
        if is_number(value):
            self.value.append(value)
            self.samples.append(samples if is_number(samples) else math.nan)
            self.step.append(step if is_number(step) else math.nan)


@dataclass
class LogData:
    """What an MLPerf log says."""

    log: Log
    """All records but the tracked statistics."""
    statistics: dict[str, Series]
    """Tracked statistics by name, such as train_step_time."""
    damages: Damages


@dataclass
class Metrics:
    """A run's metrics (`llama31.report.metrics`)."""

    seconds: Series = field(default_factory=Series)
    """Time of each step."""
    loss: Series = field(default_factory=Series)
    """Training loss of each step."""
    checkpoints: Series = field(default_factory=Series)
    """Time of each save."""
    damages: Damages = field(default_factory=Damages)


def read_log(path: Path, progress: Callable[[int], None]) -> LogData:
    """Reads an MLPerf log, which may be compressed by gzip.

    Args:
        path: The log.
        progress: Called with each number of bytes that were read of the file.

    Raises:
        UserError: The log has no `:::MLLOG` line.
        OSError: The file cannot be read.
    """
    records: list[Record] = []
    statistics: dict[str, Series] = {}
    damages = Damages()
    with path.open("rb") as file:
        for found in scan(file, progress):
            if isinstance(found, Damage):
                damages.add(found)
            elif found.key != TRACKED_STATS:
                records.append(found)
            else:
                for name, value in found.value.items():
                    if is_number(value):
                        series = statistics.setdefault(name, Series())
                        series.add(value, found.samples, found.metadata.get("step"))
    if not records and not statistics and not damages.count:
        raise UserError(f"{path}: has no :::MLLOG line; give a run directory or an MLPerf log")
    return LogData(Log(records), statistics, damages)


def read_metrics(path: Path, progress: Callable[[int], None]) -> Metrics:
    """Reads a run's metrics. Raises OSError where the file cannot be read."""
    metrics = Metrics()
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(BLOCK), b""), start=1):
            progress(len(line))
            try:
                event = parsed(line)
                place = (event.get("consumed_samples"), event.get("step"))
                if event["event"] == "step":
                    metrics.seconds.add(event["seconds"], *place)
                    metrics.loss.add(event["loss"], *place)
                elif event["event"] == "checkpoint":
                    metrics.checkpoints.add(event["seconds"], *place)
            except (ValueError, KeyError, AttributeError, RecursionError) as error:
                metrics.damages.add(Damage(number, why(error)))
    return metrics
