"""Find reports of Slurm or the kernel that a process was killed because memory ran out. Standard library only."""

import re
from pathlib import Path

VMSTAT = Path("/proc/vmstat")
LOG_END = 1 << 20  # bytes of a log that are searched
_SLURM = re.compile(
    rb"^(?:\[\S+\]|slurmstepd\S*:|srun:) error: (.*(?:out of memory|oom[-_ ]kill|exceeded memory limit).*)$",
    re.IGNORECASE | re.MULTILINE,
)
"""Messages of slurmstepd and srun from 22.05 to 26.05; tests/slurm_outputs has examples of each."""
_KILLED = re.compile(rb"^ *exitcode *: -9 ", re.MULTILINE)
"""torchrun's message about a rank that SIGKILL ended."""


def slurm_report(log: Path, since: str) -> str:
    """Return Slurm's report in a job's log after the last line `since`, or "" if there is none."""
    _, _, printed = _end(log).rpartition(since.encode())
    found = _SLURM.search(printed)
    return found[1].decode(errors="replace") if found else ""


def kernel_kills() -> int:
    """Return the kernel's count of out-of-memory kills since boot, including those in cgroups; 0 if unknown."""
    try:
        counts = dict(line.split(" ", 1) for line in VMSTAT.read_text(encoding="ascii").splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):  # no such counter
        return 0


def kernel_report(torchrun_log: Path, kills_before: int) -> str:
    """Return the kernel's report if SIGKILL ended a rank, or "" if the kernel has killed nothing since."""
    kills = kernel_kills() - kills_before
    if kills <= 0 or not _KILLED.search(_end(torchrun_log)):
        return ""
    return f"the kernel killed {kills} {'process' if kills == 1 else 'processes'} on this machine during the run"


def _end(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_END))
            return file.read()
    except OSError:  # not visible on this node
        return b""
