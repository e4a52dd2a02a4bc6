"""Spikes of the validation loss: no violation, but worth a look."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import Log, Record, is_number

RISE = 1.05
"""A loss above this multiple of the best so far is a spike; of 30 published runs of v5.1 one has one, of 5%."""


@dataclass
class Spike:
    """Consecutive evaluations above the best loss so far."""

    best: Record
    """The evaluation with the lowest loss before them."""
    top: Record
    """The one with the highest loss."""
    back: Record | None = None
    """The first evaluation after them near the best loss again; None if there is none."""

    def __str__(self) -> str:
        rise = f"rises from {self.best.value:.2f} to {self.top.value:.2f}"
        end = f"and is at {self.back.value:.2f} again after" if self.back else "and does not fall back by"
        counts = (self.top.samples, self.back.samples if self.back else "the end")
        top, back = (f"{count:,}" if is_number(count) else count for count in counts)
        return f"{rise} after {top} training sequences, {end} {back}"


def spikes(log: Log) -> list[Spike]:
    """Return the loss spikes of a run, in order."""
    found: list[Spike] = []
    best: Record | None = None
    for record in log.all(constants.EVAL_ACCURACY):
        if not is_number(record.value) or record.value <= 0:
            continue
        is_open = bool(found) and found[-1].back is None
        if best and record.value > RISE * best.value:
            if not is_open:
                found.append(Spike(best, record))
            elif record.value > found[-1].top.value:
                found[-1].top = record
            continue
        if is_open:
            found[-1].back = record
        if best is None or record.value < best.value:
            best = record
    return found


def notes(log: Log) -> Iterator[str]:
    """Describe the highest spike, and count all."""
    found = spikes(log)
    if found:
        highest = max(found, key=lambda spike: spike.top.value / spike.best.value)
        more = f"; spikes in all: {len(found)}" if len(found) > 1 else ""
        yield f"{constants.EVAL_ACCURACY}: {highest}{more}"
