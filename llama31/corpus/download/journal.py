"""Which bytes of a partial file are on disk for good."""

from pathlib import Path
from threading import Lock

from llama31.common.files import failures_named

DIGITS = 20  # of an offset: a line that a crash cut short is recognised by its length

Range = tuple[int, int]
"""First byte, and the one after the last."""


class Journal:
    """A text file: a title that says of what the bytes are, and a line for each range. Used by several threads."""

    def __init__(self, path: Path, title: str):
        """Read the ranges, none if the file has another title."""
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
        """Forget all ranges, and start the file."""
        self._ranges = []
        self._path.write_text(self._title)

    def add(self, start: int, end: int) -> None:
        """Record that bytes start..end-1 are on disk."""
        with self._lock:
            with open(self._path, "a") as file:
                file.write(f"\n{start:0{DIGITS}} {end:0{DIGITS}}")
            self._ranges = _merged([*self._ranges, (start, end)])

    def gaps(self, size: int) -> list[Range]:
        """Return what is missing of a file of `size` bytes."""
        edges = [0, *(edge for part in self._ranges for edge in part), size]
        return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]

    def recorded(self) -> int:
        """Bytes in all ranges."""
        return sum(end - start for start, end in self._ranges)

    def prefix(self) -> int:
        """Bytes from the beginning of the file to the first gap."""
        ranges = self._ranges
        return ranges[0][1] if ranges and ranges[0][0] == 0 else 0

    def end(self) -> int:
        """Where the last range ends."""
        return self._ranges[-1][1] if self._ranges else 0

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)


def _merged(ranges: list[Range]) -> list[Range]:
    """Sorted, without overlaps."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
