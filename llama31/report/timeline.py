"""What a log says of time: stretches of training, evaluations, restarts. Times are seconds, samples sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import RUN_RESUMED, Log, Record, is_number, is_whole
from llama31.report.logs import Metrics

BEHIND_BLOCK = (constants.EVAL_START, constants.BLOCK_START, constants.RUN_STOP)


@dataclass(frozen=True)
class Restart:
    """A job that went on with the run."""

    samples: int | None
    """Of the checkpoint that it went on from."""
    seconds: float
    """Time lost: from the last training step that the checkpoint holds to when training went on."""
    is_bound: bool
    """The time of those steps is not known, so that `seconds`, from the log's last line before, holds them too."""


@dataclass(frozen=True)
class Block:
    """A stretch of training, from block_start to block_stop."""

    end: int | None
    """Samples at its end."""
    sequences: int | None
    seconds: float
    """All of it, with restarts and saves of checkpoints."""
    restarts: list[Restart]

    @property
    def training(self) -> float:
        """Seconds without those that restarts took."""
        return self.seconds - sum(restart.seconds for restart in self.restarts)

    @property
    def rate(self) -> float | None:
        """Sequences per second; None with a restart, whose time is no training."""
        return None if self.restarts or not self.sequences or self.seconds <= 0 else self.sequences / self.seconds


def intervals(log: Log, start: str, stop: str) -> Iterator[tuple[tuple[int, int], float]]:
    """Places in the log of a start and the next stop, and the seconds between."""
    opened = None
    for place, record in enumerate(log.records):
        if record.key == start and opened is None:
            opened = place
        elif record.key == stop and opened is not None:
            seconds = seconds_between(log.records[opened], record)
            if seconds is not None:
                yield (opened, place), seconds
            opened = None


def blocks(log: Log, metrics: Metrics) -> Iterator[Block]:
    """Stretches of training that came to their end.

    A block's samples are those of the eval_start behind it: some logs count anew in each block_stop. Without an
    evaluation behind it, as where a run ends without its target, block_stop's are taken if they go on.
    """
    records, before = log.records, 0
    for (start, stop), seconds in intervals(log, constants.BLOCK_START, constants.BLOCK_STOP):
        following = (records[place] for place in range(stop, len(records)))
        behind = next((record for record in following if record.key in BEHIND_BLOCK), None)
        says = behind if behind and behind.key == constants.EVAL_START else records[stop]
        end = int(says.samples) if is_whole(says.samples, before) else None
        within = list(restarts(records[start:stop], metrics))
        yield Block(end, None if end is None else end - before, seconds, within)
        before = before if end is None else end


def restarts(records: Sequence[Record], metrics: Metrics) -> Iterator[Restart]:
    """Jobs that went on with the run, of consecutive records of its log."""
    for before, record in pairwise(records):
        if record.key == RUN_RESUMED:
            yield _restart(metrics, before, record)


def _restart(metrics: Metrics, before: Record, resumed: Record) -> Restart:
    gap = seconds_between(before, resumed) or 0.0
    if not is_whole(resumed.samples, 0):
        return Restart(None, gap, True)
    samples = int(resumed.samples)
    if not is_whole(before.samples, 0):
        return Restart(samples, gap, True)
    known = 0.0
    for series in (metrics.seconds, metrics.checkpoints):
        places = np.array(series.samples)
        trained = (places > before.samples) & (places <= samples)
        known += float(np.array(series.value)[trained].sum())
    return Restart(samples, gap - known, not known and samples > before.samples)


def seconds_between(start: Record, stop: Record) -> float | None:
    """Seconds from one record to another; None where that lies before it."""
    seconds = (stop.time_ms - start.time_ms) / 1000
    return seconds if seconds >= 0 and is_number(seconds) else None
