"""Whether Slurm or the kernel reports that it ended a process of a run because memory ran out. Standard library."""

import re
from pathlib import Path

VMSTAT = Path("/proc/vmstat")
LOG_END = 1 << 20  # bytes of a log that are searched
_SLURM = re.compile(
    rb"^(?:\[\S+\]|slurmstepd\S*:|srun:) error: (.*(?:out of memory|oom[-_ ]kill|exceeded memory limit).*)$",
    re.IGNORECASE | re.MULTILINE,
)
"""What slurmstepd and srun print of it, from 22.05 to 26.05; tests/slurm_outputs has lines of each."""
_KILLED = re.compile(rb"^ *exitcode *: -9 ", re.MULTILINE)
"""What torchrun prints of a rank that SIGKILL ended."""


def slurm_report(log: Path, since: str) -> str:
    """What Slurm says of it in a job's log, after the last line `since`; empty if it says nothing of the kind."""
    _, _, printed = _end(log).rpartition(since.encode())
    found = _SLURM.search(printed)
    return found[1].decode(errors="replace") if found else ""


def kernel_kills() -> int:
    """Processes of this machine that the kernel has killed because memory ran out, in cgroups too, since it started."""
    try:
        counts = dict(line.split(" ", 1) for line in VMSTAT.read_text(encoding="ascii").splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):  # not known
        return 0


def kernel_report(torchrun_log: Path, kills_before: int) -> str:
    """What the kernel says of it, where SIGKILL ended a rank; empty if it says nothing of the kind."""
    kills = kernel_kills() - kills_before
    if kills <= 0 or not _KILLED.search(_end(torchrun_log)):
        return ""
    return f"the kernel killed {kills} {'process' if kills == 1 else 'processes'} of this machine meanwhile"


def _end(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_END))
            return file.read()
    except OSError:  # it is not seen here
        return b""
