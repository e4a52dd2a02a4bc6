"""Become torchrun once its command is known, with ranks that are forks of this process: early_torchrun.py SOCKET.

Importing torch takes most of torchrun's start, and a third of a rank's. Here it is done once for all ranks of the
machine, and before the launcher knows that they will start. The ranks are forked before torchrun's own code runs,
which starts threads; each waits until torchrun would start it. All else is torch's: rendezvous, signals, exit codes.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from llama31.common import child_processes
from llama31.launch import rank_command

MODULE = "torch.distributed.run"
HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
"""Module of torchrun that starts processes."""
PRELOADED = (MODULE, "llama31.train")
"""Modules that ranks need and that are the same in each: they do not ask for the rank, nor start CUDA or a thread."""
LARGEST_COMMAND = 1 << 20  # bytes


def preload() -> None:
    """Import what ranks share."""
    gc.disable()  # imports make a million objects, which stay
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()


def main(connection: socket.socket) -> None:
    """Import, wait for the command, and run it. Ends silently if the launcher ends without one."""
    with contextlib.suppress(Exception):  # the command raises it again, and logs it
        preload()
    with connection:
        content, files, _, _ = socket.recv_fds(connection, LARGEST_COMMAND, 2)
    if not content:
        return
    said = json.loads(content)
    os.environ[rank_command.STORE] = said["store"]
    log, held = files
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    handler: Any = sys.modules.get(HANDLER)
    if not (said["ranks"] and handler and hasattr(handler.SubprocessHandler, "_popen")):
        os.set_inheritable(held, True)
        os.execv(said["command"][0], said["command"])
    ranks: list[_Rank] = []
    try:
        for _ in range(said["ranks"]):
            ranks.append(_Rank(held))  # a signal in between finds those that exist
        waiting = iter(ranks)
        handler.SubprocessHandler._popen = lambda _, command, environment: next(waiting).start(command, environment)
        sys.modules[MODULE].main(said["command"][3:])
    finally:
        for rank in ranks:
            rank.process.kill()  # Python would wait for them


class _Rank:
    """A fork that waits for the command of its rank, with as much of subprocess.Popen as torchrun uses."""

    def __init__(self, held: int):
        context = multiprocessing.get_context("fork")
        reader, self._writer = context.Pipe(duplex=False)
        with reader:
            self.process = context.Process(target=_run, args=(reader, held, os.getpid()))
            self.process.start()
        self.pid = self.process.pid

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> "_Rank":
        """Run a Python script with this process's standard output and error."""
        with self._writer:
            self._writer.send((command, environment))
        return self

    def poll(self) -> int | None:
        """Return the exit code, as subprocess gives it, None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout or 0)
        return self.process.exitcode


def _run(reader: Connection, held: int, torchrun: int) -> None:
    """Be the process of a rank."""
    child_processes.end_with(torchrun)  # while it waits; the script decides itself
    os.setsid()
    os.close(held)  # the run is running as long as torchrun is
    command, environment = reader.recv()
    reader.close()
    os.environ.update(environment)
    torch: Any = sys.modules["torch"]
    if torch.cuda._is_in_bad_fork():  # a package that registers with torch has started CUDA, which no fork can use
        os.execvp(command[0], command)
    np.random.seed()  # each rank its own, as Python does for its random
    script = list(command[command.index("-u") + 1 :])
    sys.argv = script
    if not os.environ.get("PYTHONSAFEPATH"):
        sys.path[0] = str(Path(script[0]).parent)
    runpy.run_path(script[0], run_name="__main__")


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
