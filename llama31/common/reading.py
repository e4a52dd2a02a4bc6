"""Bytes in a person's words; progress of reading many: a live line on a terminal, nothing elsewhere."""

import threading
import time
from types import TracebackType
from typing import TextIO

INTERVAL = 0.2  # seconds between two lines


class Reading:
    """Shows how much of `total` bytes was read, how fast, and how long the rest takes; threads may call `add`."""

    def __init__(self, what: str, total: int, out: TextIO):
        self.what = what
        self.total = total
        self.out = out
        self.done = 0
        self._live = out.isatty()
        self._began = self._shown = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many bytes more were read."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            if not self._live or now - self._shown < INTERVAL:
                return
            self._shown = now
            rate = self.done / (now - self._began)
            left = round((self.total - self.done) / rate)
            self.out.write(
                f"\r\x1b[K{self.what}: {size(self.done)} of {size(self.total)}, {size(rate)}/s, "
                f"{left // 60}:{left % 60:02} left"
            )
            self.out.flush()

    def __enter__(self) -> "Reading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self.out.write("\r\x1b[K")
            self.out.flush()


def size(count: float) -> str:
    """A number of bytes as a person reads it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
