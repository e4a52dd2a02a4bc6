"""Training blocks, evaluations and restarts of a log. Times are in seconds, samples in sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import RUN_RESUMED, Log, Record, is_number, is_whole
from llama31.report.logs import Metrics

AFTER_BLOCK = (constants.EVAL_START, constants.BLOCK_START, constants.RUN_STOP)


@dataclass(frozen=True)
class Restart:
    """A job that resumed the run."""

    samples: int | None
    """Samples of the checkpoint that it resumed from."""
    seconds: float
    """Time lost: from the last training step in the checkpoint to the restart of training."""
    is_bound: bool
    """Whether `seconds` is an upper bound: the time of those steps is unknown, so it includes them."""


@dataclass(frozen=True)
class Block:
    """A training block, from block_start to block_stop."""

    end: int | None  # samples
    sequences: int | None
    seconds: float
    """Duration, including restarts and checkpoint saves."""
    restarts: list[Restart]

    @property
    def training(self) -> float:
        """Duration without restarts."""
        return self.seconds - sum(restart.seconds for restart in self.restarts)

    @property
    def rate(self) -> float | None:
        """Sequences per second; None with a restart, which would count as training."""
        return None if self.restarts or not self.sequences or self.seconds <= 0 else self.sequences / self.seconds


def intervals(log: Log, start: str, stop: str) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield the indices of each start and the next stop in the log, and the seconds between."""
    opened = None
    for index, record in enumerate(log.records):
        if record.key == start and opened is None:
            opened = index
        elif record.key == stop and opened is not None:
            if (seconds := seconds_between(log.records[opened], record)) is not None:
                yield (opened, index), seconds
            opened = None


def blocks(log: Log, metrics: Metrics) -> Iterator[Block]:
    """Yield finished training blocks.

    A block's samples are those of the following eval_start: some logs restart the count in each block_stop. Without an
    evaluation after it, as when a run ends before its target, block_stop's are used if they continue the count.
    """
    records, before = log.records, 0
    for (start, stop), seconds in intervals(log, constants.BLOCK_START, constants.BLOCK_STOP):
        after = next((record for record in islice(records, stop, None) if record.key in AFTER_BLOCK), None)
        counted = after if after and after.key == constants.EVAL_START else records[stop]
        end = int(counted.samples) if is_whole(counted.samples, before) else None
        within = restarts(records[start:stop], metrics)
        yield Block(end, None if end is None else end - before, seconds, within)
        before = before if end is None else end


def restarts(records: Sequence[Record], metrics: Metrics) -> list[Restart]:
    """Return the restarts in consecutive records of a log."""
    return [_restart(metrics, before, record) for before, record in pairwise(records) if record.key == RUN_RESUMED]


def _restart(metrics: Metrics, before: Record, resumed: Record) -> Restart:
    gap = seconds_between(before, resumed) or 0.0
    if not is_whole(resumed.samples, 0):
        return Restart(None, gap, True)
    samples = int(resumed.samples)
    if not is_whole(before.samples, 0):
        return Restart(samples, gap, True)
    known = 0.0
    for series in (metrics.seconds, metrics.checkpoints):
        counts = np.array(series.samples)
        trained = (counts > before.samples) & (counts <= samples)
        known += float(np.array(series.value)[trained].sum())
    return Restart(samples, gap - known, not known and samples > before.samples)


def seconds_between(start: Record, stop: Record) -> float | None:
    """Return the seconds from one record to another; None if they are in the wrong order."""
    seconds = (stop.time_ms - start.time_ms) / 1000
    return seconds if seconds >= 0 and is_number(seconds) else None
