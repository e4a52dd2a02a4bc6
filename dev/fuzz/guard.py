"""What must not happen while a file of others is read: recorded by an audit hook, a timer and the kernel's counters.

To be used in a process of its own: an audit hook cannot be removed.
"""

import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

from dev.support.runs import REPOSITORY
from llama31.launch import remote_shell

SECONDS = 10.0  # of CPU time for one input: others may use this machine; the parent ends what waits
MEMORY = 1 << 30  # bytes above the memory at the start
ROOM = 4 * MEMORY  # bytes of address space above the start: protects this machine
PROCESSES = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
NETWORK = {"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "urllib.Request"}
WRITES = {
    "os.mkdir": (0,), "os.remove": (0,), "os.rmdir": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,),
    "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
    "shutil.rmtree": (0,), "os.setxattr": (0,),
}  # fmt: skip
"""Audit event -> positions of the paths that it changes."""


class Hang(BaseException):
    """An input took too long; the traceback says where."""


class Guard:
    """Record forbidden events of the code in `watching`; writing is allowed below `sandbox`."""

    def __init__(self, sandbox: Path):
        self.sandbox = os.path.realpath(sandbox)
        self.found: list[str] = []
        self._watches = False
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGPROF, self._hang)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.RLIM_INFINITY))

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Yield the list of what happens that must not. Raises Hang in this context if it takes too long."""
        self.found = []
        start = _forget_peak_memory()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        self._watches = True
        try:
            yield self.found
        finally:
            self._watches = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            if (more := _peak_memory() - start) > MEMORY:
                self.found.append(f"takes {more >> 20:,} MiB of memory")

    def _hang(self, _: int, __: FrameType | None) -> NoReturn:
        raise Hang(f"takes longer than {SECONDS:g} s")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watches:
            return
        if event == "subprocess.Popen" and _is_expected(list(map(str, arguments[1]))):
            return
        if event in PROCESSES or event in NETWORK:
            self.found.append(f"{event} {arguments!r:.300}")
            if event in PROCESSES:
                raise PermissionError(f"{event}: not from a file of others")
        elif event == "exec":
            self._executes(arguments[0])
        elif event == "open":
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT
            )
            if writes and not isinstance(path, int):
                self._writes(event, path)
        elif event in WRITES:
            for position in WRITES[event]:
                self._writes(event, arguments[position])

    def _executes(self, code: Any) -> None:
        """Record code from the sandbox, or of an import from elsewhere than Python's directories."""
        if isinstance(code, CodeType) and code.co_filename.startswith(f"{self.sandbox}/"):
            self.found.append(f"executes {code.co_filename}")

    def _writes(self, event: str, path: Any) -> None:
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith((f"{self.sandbox}/", "/dev/null", "/proc/self/", "/dev/shm/")) and not real.endswith(
            ".pyc"
        ):
            self.found.append(f"{event} of {real}, outside the sandbox")


def _is_expected(command: list[str]) -> bool:
    """Return whether reading starts this command anyway: git on this repository, or a shell for Slurm's tools.

    Raises FileNotFoundError for ssh to a host, so that none is asked.
    """
    if command[0] == remote_shell.SSH[0]:
        host, *rest = command[len(remote_shell.SSH) :]
        if tuple(command[: len(remote_shell.SSH)]) == remote_shell.SSH and not host.startswith("-") and len(rest) == 1:
            raise FileNotFoundError("ssh")
    is_git = command[:2] == ["git", "-C"] and Path(command[2]).resolve() == REPOSITORY
    return is_git or command[1:] == ["-c", remote_shell.FIRST_FROM_INPUT]


def _peak_memory() -> int:
    """Return the most memory, in bytes, since the last _forget_peak_memory().

    Not ru_maxrss: a process inherits that of the one which started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _forget_peak_memory() -> int:
    """Let the peak be the memory of now (proc(5), clear_refs), and return it in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_memory()


def use_sandbox(sandbox: Path) -> None:
    """Let temporary files and relative paths of this process be in the sandbox."""
    for name in ("tmp", "cwd"):
        (sandbox / name).mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(sandbox / "tmp")
    tempfile.tempdir = None
    os.chdir(sandbox / "cwd")
