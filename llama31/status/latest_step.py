"""Read a run's progress from the end of its metrics file. Imports only the standard library."""

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import from_json, parsed
from llama31.run_dir.events import Evaluation, RankTimes, Step

TAIL = 512 << 10  # bytes to read: about 3,000 steps, several times as many as between two evaluations
STEPS = 20  # to average the step time over

T = TypeVar("T", Step, Evaluation, RankTimes)


@dataclass(frozen=True)
class Recent:
    """Progress of a run: its last step, evaluation and comparison of ranks. None: not among its last metrics."""

    last_step: Step
    step_seconds: float
    """Mean wall time of the last steps, without evaluations."""
    evaluation: Evaluation | None
    ranks: RankTimes | None
    age: float
    """Seconds since the last event was written."""


def read(file: Path) -> Recent | None:
    """Return a run's progress; None before the first step. An incomplete last line is ignored.

    Raises UserError if the file cannot be read or a line is not an event.
    """
    if not file.is_file():
        return None
    with failures_named(file), file.open("rb") as metrics:
        status = os.fstat(metrics.fileno())
        metrics.seek(max(0, status.st_size - TAIL))
        whole, newline, _ = metrics.read().rpartition(b"\n")
    lines = whole.splitlines()[status.st_size > TAIL :]  # the first one may have been cut
    try:
        steps = list(islice(_newest(lines, "step", Step), STEPS))
        evaluation = next(_newest(lines, "evaluation", Evaluation), None)
        ranks = next(_newest(lines, "ranks", RankTimes), None)
        if newline:
            parsed(lines[-1])["event"]
        times = [step.seconds for step in steps] + ([ranks.median] if ranks else [])
        if not all(0 < seconds < math.inf for seconds in times) or (evaluation and not evaluation.seconds < math.inf):
            raise ValueError("a time that cannot be")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{file}: damaged: a line is not an event ({error!r})") from error
    if not steps:
        return None
    mean = sum(step.seconds for step in steps) / len(steps)
    return Recent(steps[0], mean, evaluation, ranks, age=max(0.0, time.time() - status.st_mtime))


def _newest(lines: Sequence[bytes], event: str, kind: type[T]) -> Iterator[T]:
    """Yield events of one kind, newest first."""
    marker = f'"event": "{event}"'.encode()
    return (from_json(kind, parsed(line)) for line in reversed(lines) if marker in line)
