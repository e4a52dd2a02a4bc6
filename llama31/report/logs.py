"""Read the MLPerf log of a run, of this project or another, and its metrics, in one pass.

Memory use does not grow with the file size: per-step statistics are stored in arrays.
"""

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants

from llama31.common.errors import UserError
from llama31.common.json_files import from_json
from llama31.mlperf.log.reader import BLOCK, parse_json, reason_of, scan
from llama31.mlperf.log.records import TRACKED_STATS, Damage, Damages, Log, Record, is_number, is_whole
from llama31.run_dir.events import RankTimes

STEP_TIME, TRAINING_LOSS = "train_step_time", "reduced_train_loss"
"""Statistics in NVIDIA's logs: seconds of a step, or of a block's mean step; training loss of a step."""


@dataclass
class Series:
    """One statistic over a run, as arrays of equal length. nan: not in the line."""

    samples: array = field(default_factory=lambda: array("d"))
    step: array = field(default_factory=lambda: array("d"))
    value: array = field(default_factory=lambda: array("d"))

    def add(self, value: Any, samples: Any, step: Any) -> None:
        """Append a value if it is a number."""
        if is_number(value):
            self.value.append(value)
            self.samples.append(samples if is_number(samples) else math.nan)
            self.step.append(step if is_number(step) else math.nan)


@dataclass
class LogData:
    """Records of an MLPerf log, and its tracked statistics by name, for example train_step_time."""

    log: Log
    statistics: dict[str, Series]
    damages: Damages


@dataclass
class Metrics:
    """A run's metrics (`llama31.run_dir.metrics_file`): seconds and training loss of steps, seconds of checkpoints.

    Of checkpoints, the seconds for which training waited; of older metrics, those of the whole save, which were equal.
    `slowest`: by rank, its times relative to the median rank's where it was the slowest of all.
    """

    seconds: Series = field(default_factory=Series)
    loss: Series = field(default_factory=Series)
    checkpoints: Series = field(default_factory=Series)
    slowest: dict[str, array] = field(default_factory=dict)
    damages: Damages = field(default_factory=Damages)


def read_log(path: Path, progress: Callable[[int], None]) -> LogData:
    """Read an MLPerf log, which may be gzipped; call `progress` with the number of bytes of each read.

    Raises UserError if the log has no `:::MLLOG` line, OSError if the file cannot be read.
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
    """Collects tracked statistics by name.

    NVIDIA's logs of v5.1 name a statistic's step, and logs of v6.0 its samples: a line with a training
    loss is about one step, after that many samples; a line with only a step time is the mean of a block, and its
    samples are the block's length. The first line after an evaluation is written before another step has ended: its
    loss is valid, its step time is not.
    """

    def __init__(self) -> None:
        self.statistics: dict[str, Series] = {}
        self._batch: Any = None
        self._evaluated = 0.0  # samples at the last evaluation

    def event(self, record: Record) -> None:
        """Remember the values that later statistics depend on."""
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
    """Read a run's metrics. Raises OSError if the file cannot be read."""
    metrics = Metrics()
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(BLOCK), b""), start=1):
            progress(len(line))
            try:
                event = parse_json(line)
                position = (event.get("consumed_samples"), event.get("step"))
                if event["event"] == "step":
                    metrics.seconds.add(event["seconds"], *position)
                    metrics.loss.add(event["loss"], *position)
                elif event["event"] == "ranks":
                    times = from_json(RankTimes, event)
                    ratios = metrics.slowest.setdefault(str(times.slowest[0]), array("d"))
                    ratios.append(times.slowest[0].seconds / times.median)
                elif event["event"] == "checkpoint":
                    blocked = event.get("blocked")
                    metrics.checkpoints.add(event["seconds"] if blocked is None else blocked, *position)
            except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
                metrics.damages.add(Damage(number, reason_of(error)))
    return metrics
