"""Memory of the ranks of a job over its steps, for tools of dev/."""

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path

from dev.support.slurm_cluster import ENDED
from dev.support.submitted import PAUSE, Submitted

KINDS = ("RssAnon", "RssShmem")  # of memory, in /proc/PID/status


@dataclass
class Sample:
    """Bytes that each rank holds for itself, after a step."""

    step: int = 0
    held: dict[int, int] = field(default_factory=dict)


def watch(run: Submitted, job: str, from_step: int) -> tuple[Sample, Sample]:
    """Wait for a job to end. Return the memory of its ranks at `from_step`, and shortly before the end."""
    run.after_a_step(job)
    run.reaches(from_step, job)
    first = last = _sample(run, job)

    def has_ended() -> bool:
        nonlocal last
        with contextlib.suppress(OSError, KeyError):  # a rank ends
            sample = _sample(run, job)
            last = sample if sample.held.keys() == first.held.keys() else last
        return run.cluster.state(job) in ENDED

    run.cluster.until(f"job {job} ends", has_ended, deadline=math.inf, pause=PAUSE)
    return first, last


def growth(first: Sample, last: Sample) -> dict[int, float]:
    """Return by how much of it the memory of each rank has grown."""
    return {rank: last.held[rank] / held - 1 for rank, held in first.held.items()}


def _sample(run: Submitted, job: str) -> Sample:
    step = run.latest_step(job)
    return Sample(step, {rank: _held(pid) for rank, pid in run.ranks(job).items()})


def _held(pid: int) -> int:
    """Return the bytes of a process without pages of files. Raises OSError or KeyError if it ends."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[kind].split()[0]) << 10 for kind in KINDS)
