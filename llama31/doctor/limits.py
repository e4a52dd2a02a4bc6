"""Time limits: a hanging file server or network must produce a line, not a hang."""

import atexit
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_running: set[int] = set()
"""Ids of running commands, each the leader of its own process group."""


@atexit.register
def _end_all() -> None:
    """Kill running commands when this process exits early, as on Ctrl-C."""
    for pid in _running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


class TookTooLong(Exception):
    """No answer within `seconds`."""

    def __init__(self, seconds: float):
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return the result of `work`.

    Raises TookTooLong, and abandons `work`: a thread that waits for a dead server cannot be ended, but as a daemon it
    does not keep this process alive.
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised below, in the waiting thread
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    wait([found], seconds)
    if not found.done():
        raise TookTooLong(seconds)
    return found.result()


def output(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its output. Raises TookTooLong after killing the command's process group."""
    pipe: Any = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    ) as process:
        _running.add(process.pid)
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise TookTooLong(seconds) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            _running.discard(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, out, errors)
