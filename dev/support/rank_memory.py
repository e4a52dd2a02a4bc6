"""Memory of the ranks of a job over its steps, for tools of dev/."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dev.support.slurm_cluster import ENDED
from dev.support.submitted import PAUSE, Submitted

KINDS = ("RssAnon", "RssShmem")  # of memory, in /proc/PID/status


@dataclass
class Sample:
    """Bytes that each rank holds for itself, after a step."""

    step: int
    held: dict[int, int]


@dataclass(frozen=True)
class Change:
    """Memory of a rank, bytes: medians of the first and the last samples, which vary by a percent with each save."""

    first: float
    last: float

    @property
    def grown(self) -> float:
        """By how much of the first it has grown."""
        return self.last / self.first - 1


def watch(run: Submitted, job: str, from_step: int) -> list[Sample]:
    """Wait for a job to end. Return the memory of its ranks from a step on, sampled several times a second."""
    run.after_a_step(job)
    run.reaches(from_step, job)
    samples = [_sample(run, job)]

    def has_ended() -> bool:
        with contextlib.suppress(OSError, KeyError):  # a rank ends
            sample = _sample(run, job)
            if sample.held.keys() == samples[0].held.keys():
                samples.append(sample)
        return run.cluster.state(job) in ENDED

    run.cluster.until(f"job {job} ends", has_ended, deadline=math.inf, pause=PAUSE)
    return samples


def changes(samples: Sequence[Sample], steps: int) -> dict[int, Change]:
    """Return the change of each rank's memory from the first `steps` steps to the last ones."""
    start, end = samples[0].step + steps, samples[-1].step - steps
    return {
        rank: Change(
            median(sample.held[rank] for sample in samples if sample.step <= start),
            median(sample.held[rank] for sample in samples if sample.step >= end),
        )
        for rank in samples[0].held
    }


def _sample(run: Submitted, job: str) -> Sample:
    step = run.latest_step(job)
    return Sample(step, {rank: _held(pid) for rank, pid in run.ranks(job).items()})


def _held(pid: int) -> int:
    """Return the bytes of a process without pages of files. Raises OSError or KeyError if it ends."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[kind].split()[0]) << 10 for kind in KINDS)
