"""A command and all its processes: run to the end, stopped, killed, and waited for."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.01
ORPHAN_SECONDS = 30  # for processes to end after the first one ended


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code, or the negative number of a signal; after a timeout it is killed by SIGKILL."""
    printed: str
    """Standard output."""
    errors: str
    """Standard error."""
    seconds: float
    timed_out: bool
    left: list[str]
    """Command lines of processes that outlived the first one and had to be killed."""


def adopt_orphans() -> None:
    """Make orphans of commands children of this process, so that none is overlooked."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def run(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    outputs: Path,
    timeout: float,
    watch: Callable[[list[int]], None] = lambda _: None,
    server: int | None = None,
) -> Ended:
    """Run a command and wait for all its processes, also those that a server forks for it.

    `watch` is called with their ids while it runs, the first one first.
    """
    began = time.monotonic()
    out, err = outputs / "stdout", outputs / "stderr"
    with out.open("wb") as printed, err.open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            start_new_session=True,
        )
    timed_out = False
    while process.poll() is None:
        watch(_all_of(process.pid, server))
        if timed_out := time.monotonic() - began > timeout:
            for pid in _all_of(process.pid, server):
                signal_to(pid, signal.SIGKILL)
            process.wait()
            break
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - began
    left = _reap(server)
    read = [path.read_text(errors="replace") for path in (out, err)]
    return Ended(process.returncode, read[0], read[1], seconds, timed_out, left)


def descendants(pid: int) -> list[int]:
    """Return the ids of all descendants of a process, started by any of its threads."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, file.read_text().split()):
                found += [child, *descendants(child)]
    return found


def signal_to(pid: int, signum: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal, or has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "TtZX"


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _all_of(first: int, server: int | None) -> list[int]:
    return [first, *descendants(first), *(descendants(server) if server else ())]


def _reap(server: int | None) -> list[str]:
    """Wait for the orphans that the command left; return those that had to be killed."""
    deadline = time.monotonic() + ORPHAN_SECONDS
    left: list[str] = []
    while orphans := [pid for pid in descendants(os.getpid()) if pid != server]:
        if time.monotonic() > deadline:
            left += [line for pid in orphans if (line := command_line(pid))]
            for pid in orphans:
                signal_to(pid, signal.SIGKILL)
            deadline = float("inf")
        for pid in orphans:
            with suppress(ChildProcessError):  # not a child of this process, but of one of them
                os.waitpid(pid, os.WNOHANG)
        time.sleep(POLL_SECONDS)
    return left
