"""Start torchrun before its command is known: it imports torch while this process checks settings and data."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

from llama31.launch import rank_command

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
EARLY = "llama31.launch.early_torchrun"


def command(ranks: int, log_dir: Path) -> list[str]:
    """Return the command of torchrun on this machine, which the command of a rank completes."""
    return [sys.executable, *rank_command.torchrun(ranks), f"--log-dir={log_dir}"]


class Early:
    """A process that becomes torchrun once; a context manager that ends it if it has not."""

    def __init__(self, ranks: int, environment: Mapping[str, str]):
        self.waits = True
        self.environment = environment
        self._ranks = ranks
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", EARLY, str(theirs.fileno())],  # -u, as torchrun starts ranks
                stderr=subprocess.DEVNULL,  # until there is a log
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def become(self, command: Sequence[str], store: Path, log: BinaryIO, held: TextIO) -> subprocess.Popen:
        """Become the torchrun of a command; see `start`."""
        self.waits = False
        said = json.dumps({"ranks": self._ranks, "command": command, "store": str(store)}).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit code tells what it was
            socket.send_fds(self._ours, [said], [log.fileno(), held.fileno()])
        return self._process

    def __enter__(self) -> "Early":
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        if self.waits:
            self._process.kill()
            self._process.wait()


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    store: Path,
    log: BinaryIO,
    held: TextIO,
    early: Early | None,
) -> subprocess.Popen:
    """Start the ranks of a run.

    Args:
        command: Of torchrun and the ranks.
        environment: Theirs.
        store: File for torchrun's state.
        log: Gets torchrun's standard error.
        held: A file that torchrun keeps open.
        early: Becomes this torchrun, if it still waits and has the same environment.
    """
    if early and early.waits and early.environment == environment:
        return early.become(command, store, log, held)
    own = {**environment, rank_command.STORE: str(store)}
    return subprocess.Popen(command, stderr=log, env=own, start_new_session=True, pass_fds=(held.fileno(),))
