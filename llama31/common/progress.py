"""Progress of work on files, as a bar on a terminal, and as lines elsewhere if asked for."""

import sys
import threading
import time

from tqdm import tqdm

from llama31.common.units import duration, size


class Progress:
    """A bar on stderr with bytes, rate and time left; a context manager that several threads may update."""

    def __init__(self, label: str, total: int, done: int = 0, quiet: bool = False, every: float | None = None):
        """Start a bar of `total` bytes, of which an earlier run did the first `done`.

        With `every`, also print a line at that interval in seconds.
        """
        self._label, self._total, self._every = label, total, every
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
        self._start = self._said = time.monotonic()
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
            if self._every is not None and (now := time.monotonic()) - self._said >= self._every:
                self._said = now
                print(self._line(now - self._start), flush=True)

    def reach(self, done: int, note: str) -> None:
        """Move the bar to `done` bytes and show `note` behind it."""
        self._bar.set_postfix_str(note, refresh=False)
        self.add(done - self.done)

    def note(self, text: str) -> None:
        """Show a text behind the bar."""
        with self._lock:
            self._bar.set_postfix_str(text)

    def _line(self, seconds: float) -> str:
        rate = max(self.done / seconds, 1e-9)
        left = duration((self._total - self.done) / rate)
        return f"{self._label}: {self.done / max(self._total, 1):.0%}, {size(rate)}/s, {left} left"

    def figures(self) -> str:
        """Return bytes, time and rate so far, for the line at the end."""
        seconds = time.monotonic() - self._start
        return f"{size(self.done)} in {seconds:,.1f} s ({size(self.done / max(seconds, 1e-9))}/s)"
