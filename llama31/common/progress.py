"""Progress of work on files, shown to a terminal only, and how many cores there are for it."""

import os
import sys
import threading
import time

from tqdm import tqdm


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Progress:
    """A bar with bytes, rate and time left on a terminal's stderr; a context manager, to be used by several threads."""

    def __init__(self, label: str, total: int, done: int = 0, quiet: bool = False):
        """`total`: bytes in all, of which an earlier run did the first `done`."""
        self._bar = tqdm(
            desc=label,
            total=total,
            initial=done,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self.done = done
        """Bytes so far."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        with self._lock:
            self.done += count
            self._bar.update(count)

    def reach(self, done: int, note: str) -> None:
        """So many bytes are done in all; `note` is shown behind them."""
        self._bar.set_postfix_str(note, refresh=False)
        self.add(done - self.done)

    def note(self, text: str) -> None:
        """Show a text behind the bar."""
        with self._lock:
            self._bar.set_postfix_str(text)

    def figures(self) -> str:
        """Bytes so far, and in what time, for the line at the end."""
        seconds = time.monotonic() - self._start
        return f"{self.done / 1e6:,.0f} MB in {seconds:,.1f} s ({self.done / 1e6 / max(seconds, 1e-9):,.0f} MB/s)"
