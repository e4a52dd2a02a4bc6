"""Journal of the bytes of a partial file that are durable on disk."""

from pathlib import Path
from threading import Lock

from llama31.common.files import failures_named

DIGITS = 20  # of an offset: the fixed length of a line shows whether a crash truncated it

Range = tuple[int, int]
"""First byte, and one past the last byte."""


class Journal:
    """A text file: a title that identifies the data, and a line for each range. Thread-safe."""

    def __init__(self, path: Path, title: str):
        """Read the ranges; a file with another title counts as empty."""
        self._path = path
        self._title = title
        self._lock = Lock()
        self._ranges = self._read()

    def _read(self) -> list[Range]:
        if not self._path.is_file():
            return []
        with failures_named(self._path):
            title, *lines = self._path.read_text(errors="replace").split("\n")
        if title != self._title:
            return []
        whole = (line.split() for line in lines if len(line) == 2 * DIGITS + 1)
        return _merged([(int(first), int(last)) for first, last in whole])

    def clear(self) -> None:
        """Drop all ranges, and write a file with only the title."""
        self._ranges = []
        self._path.write_text(self._title)

    def add(self, start: int, end: int) -> None:
        """Record that bytes start..end-1 are on disk."""
        with self._lock:
            with open(self._path, "a") as file:
                file.write(f"\n{start:0{DIGITS}} {end:0{DIGITS}}")
            self._ranges = _merged([*self._ranges, (start, end)])

    def gaps(self, size: int) -> list[Range]:
        """Return the missing ranges of a file of `size` bytes."""
        edges = [0, *(edge for part in self._ranges for edge in part), size]
        return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]

    def recorded(self) -> int:
        """Return the number of bytes in all ranges."""
        return sum(end - start for start, end in self._ranges)

    def prefix(self) -> int:
        """Return the number of bytes from the beginning of the file to the first gap."""
        ranges = self._ranges
        return ranges[0][1] if ranges and ranges[0][0] == 0 else 0

    def end(self) -> int:
        """Return the end of the last range."""
        return self._ranges[-1][1] if self._ranges else 0

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _merged(ranges: list[Range]) -> list[Range]:
    """Return ranges sorted, with overlapping and adjacent ones merged."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
