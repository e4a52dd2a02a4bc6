"""Progress of work on files, shown on a terminal only."""

import sys
import threading
import time

from tqdm import tqdm

from llama31.common.units import size


class Progress:
    """A bar on stderr with bytes, rate and time left; a context manager that several threads may update."""

    def __init__(self, label: str, total: int, done: int = 0, quiet: bool = False):
        """Start a bar of `total` bytes, of which an earlier run did the first `done`."""
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
        """Add `count` bytes."""
        with self._lock:
            self.done += count
            self._bar.update(count)

    def reach(self, done: int, note: str) -> None:
        """Move the bar to `done` bytes and show `note` behind it."""
        self._bar.set_postfix_str(note, refresh=False)
        self.add(done - self.done)

    def note(self, text: str) -> None:
        """Show a text behind the bar."""
        with self._lock:
            self._bar.set_postfix_str(text)

    def figures(self) -> str:
        """Return bytes, time and rate so far, for the line at the end."""
        seconds = time.monotonic() - self._start
        return f"{size(self.done)} in {seconds:,.1f} s ({size(self.done / max(seconds, 1e-9))}/s)"
