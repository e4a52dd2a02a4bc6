"""Time limits of partitions, and whether a job in PARTITION has time for SIGNAL_BEFORE_END."""

import os
from dataclasses import dataclass

from llama31.common.errors import UserError
from llama31.launch import remote_shell
from llama31.plan.validate_slurm import seconds
from llama31.settings import Settings

USUAL = "4:00:00"
"""A time limit to suggest if any works."""


@dataclass(frozen=True)
class Partition:
    """Time limits of a partition, in sinfo's format."""

    default: str
    """Limit of a job without --time; empty if it is `most`."""
    most: str


def known(destination: str, timeout: float = remote_shell.PATIENCE) -> dict[str, Partition]:
    """Return all partitions by name, hidden ones too. Raises UserError if Slurm cannot be asked."""
    printed = remote_shell.output(destination, ["sinfo", "--all", "--noheader", "--format=%R|%L|%l"], timeout=timeout)
    lines = [line.split("|") for line in printed.splitlines()]
    return {
        line[0]: Partition("" if line[1] in ("n/a", "NONE") else line[1], line[2]) for line in lines if len(line) == 3
    }


def check_time(settings: Settings, destination: str, kept: list[str]) -> None:
    """Raise UserError if no time limit is set and the partition's default leaves no time for training.

    `kept` are the variables that sbatch will see.
    """
    if not settings.signal_before_end or "SBATCH_TIMELIMIT" not in kept:
        return
    try:
        there = known(destination)
    except remote_shell.Unreachable:
        raise
    except UserError:  # sbatch's own error says more
        return
    given = "" if destination else os.environ.get("SBATCH_TIMELIMIT", "")
    for name in settings.partition.split(","):
        partition = there.get(name, Partition("", ""))
        limit = given or partition.default or partition.most
        allowed = seconds(limit)
        if allowed is None or settings.signal_before_end < allowed:
            continue
        where = f"SBATCH_TIMELIMIT={limit}" if given else f"{limit}, the time limit of PARTITION={name} without TIME"
        most = seconds(partition.most)
        longer = partition.most if most else USUAL
        works = [f"TIME={longer}"] if most is None or most > settings.signal_before_end else []
        works.append(f"SIGNAL_BEFORE_END={allowed // 4}")
        raise UserError(
            f"SIGNAL_BEFORE_END={settings.signal_before_end}: must be below {where}; {' or '.join(works)} works"
        )
