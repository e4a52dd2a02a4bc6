"""Retries with exponential backoff."""

import random
from collections.abc import Callable
from threading import Event
from typing import TypeVar

from llama31.common.errors import UserError
from llama31.corpus.download.remote import Interrupted

ATTEMPTS = 8
"""Consecutive failures after which to give up."""
FIRST_PAUSE = 1.0
"""Seconds; each further pause is twice as long. All pauses together take about two minutes."""
LONGEST_PAUSE = 60.0
LONGEST_ASKED = 600.0
"""Longest Retry-After of a server that is respected, seconds."""

T = TypeVar("T")


class Stopped(UserError):
    """Raised to end work because the whole download ends; the reason is reported elsewhere."""

    def __init__(self) -> None:
        super().__init__([])


class GivenUp(UserError):
    """Raised if all attempts failed."""


def pause(stop: Event, seconds: float) -> None:
    """Wait `seconds`, or until `stop` is set."""
    stop.wait(seconds)


class Attempts:
    """Counter of the failed attempts at one piece of work."""

    def __init__(self, stop: Event, note: Callable[[str], object]):
        """`note` receives a line before each pause."""
        self._stop = stop
        self._note = note
        self.failures = 0
        """Consecutive failures."""

    def succeeded(self) -> None:
        """Reset the count of failures."""
        if self.failures:
            self.failures = 0
            self._note("")

    def failed(self, error: Interrupted) -> None:
        """Wait before the next attempt. Raises GivenUp after the last one, Stopped if the download ends during it."""
        self.failures += 1
        if self.failures >= ATTEMPTS:
            raise GivenUp(f"{error}; gave up after {self.failures} attempts")
        backoff = min(FIRST_PAUSE * 2 ** (self.failures - 1), LONGEST_PAUSE)
        # Random, so that clients that failed at the same time do not retry at the same time.
        seconds = max(min(error.retry_after, LONGEST_ASKED), backoff * random.uniform(0.5, 1))
        self._note(f"{error}; attempt {self.failures + 1} of {ATTEMPTS} in {seconds:.0f} s")
        pause(self._stop, seconds)
        if self._stop.is_set():
            raise Stopped


def retry(work: Callable[[], T], stop: Event, note: Callable[[str], object]) -> T:
    """Call `work` until it does not raise Interrupted; return its result. Raises GivenUp, one line, or Stopped."""
    attempts = Attempts(stop, note)
    while True:
        try:
            return work()
        except Interrupted as error:
            attempts.failed(error)
