"""Work that ends in time: a hanging file server or network must become a line, not a hang."""

import atexit
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_running: set[int] = set()
"""Ids of the commands that run; each leads a process group of its own."""


@atexit.register
def _end_all() -> None:
    """Ends what was started when this process ends before it, as by Ctrl-C."""
    for pid in _running:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


class TookTooLong(Exception):
    """There is no answer after so many `seconds`."""

    def __init__(self, seconds: float):
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work gives. Raises TookTooLong, and leaves the work to itself: who waits for a dead server cannot be
    ended, but does not keep this process either."""
    found: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - raised below, where it is waited for
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise TookTooLong(seconds)
    return found[0]


def output(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a command prints. Raises TookTooLong, after it ended the command and all that it started."""
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
