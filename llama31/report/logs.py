"""What a run left behind, read once from end to end: its MLPerf log, of this project or another, and its metrics.

Memory follows what is said, and not the size of the files: statistics of each step go into arrays.
"""

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants

from llama31.common.errors import UserError
from llama31.mlperf.log.reader import BLOCK, parsed, scan, why
from llama31.mlperf.log.records import TRACKED_STATS, Damage, Damages, Log, Record, is_number, is_whole

STEP_TIME, TRAINING_LOSS = "train_step_time", "reduced_train_loss"
"""Tracked statistics of NVIDIA's logs: seconds of a step, or of the mean step of a block; training loss of a step."""


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
    """A run's metrics (`llama31.run_dir.metrics_file`)."""

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
    tracked = _Tracked()
    damages = Damages()
    with path.open("rb") as file:
        for found in scan(file, progress):
            if isinstance(found, Damage):
                damages.add(found)
            elif found.key == TRACKED_STATS:
                tracked.add(found)
            else:
                tracked.event(found)
                records.append(found)
    if not records and not tracked.statistics and not damages.count:
        raise UserError(f"{path}: has no :::MLLOG line; give a run directory or an MLPerf log")
    return LogData(Log(records), tracked.statistics, damages)


class _Tracked:
    """Tracked statistics by name.

    NVIDIA's logs of v5.1 name the step of a statistic. Those of v6.0 name its samples instead: a line with a training
    loss is about one step, after so many samples; a line with a step time alone is the mean of a block, and its
    samples are the block's length. The first line after an evaluation was written before another step ended: its loss
    counts, its time is no step's.
    """

    def __init__(self) -> None:
        self.statistics: dict[str, Series] = {}
        self._batch: Any = None
        self._evaluated = 0.0  # samples at the last evaluation

    def event(self, record: Record) -> None:
        """Note what later statistics are read by."""
        if record.key == constants.GLOBAL_BATCH_SIZE:
            self._batch = record.value
        elif record.key == constants.EVAL_START and is_number(record.samples):
            self._evaluated = record.samples

    def add(self, record: Record) -> None:
        """Add the statistics of one line."""
        step, samples = record.metadata.get("step"), record.samples
        is_before_a_step = False
        if step is None and TRAINING_LOSS in record.value and is_number(samples) and is_whole(self._batch, 1):
            step = samples / self._batch
            is_before_a_step = samples <= self._evaluated
        for name, value in record.value.items():
            if is_number(value) and not (is_before_a_step and name == STEP_TIME):
                self.statistics.setdefault(name, Series()).add(value, samples, step)


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
