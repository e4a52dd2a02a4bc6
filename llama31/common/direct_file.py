"""Files past the page cache, whose pages take longer to allocate than to fill, and which hides what the disk holds."""

import errno
import fcntl
import io
import mmap
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

BLOCK = 4096  # bytes; O_DIRECT transfers whole blocks, between addresses that are multiples of it
BUFFER = 8 << 20  # bytes
NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
"""Errors of a file system without direct I/O, or with larger blocks."""
SMALL = 64 << 10  # bytes that are read at least, for tables in small pieces


def open_to_read(path: Path, *, from_disk: bool) -> "io.BufferedReader | DirectReader":
    """Open a file; with `from_disk`, past the page cache, as `DirectReader`. Raises OSError."""
    return DirectReader(path) if from_disk else open(path, "rb")


def _open(path: Path, flags: int) -> int:
    """Open a file with O_DIRECT, unless its file system has none."""
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno not in NOT_DIRECT:
            raise
        return os.open(path, flags | os.O_CLOEXEC, 0o666)


def _cached_if_need_be(file: int, transfer: Callable[[], int]) -> int:
    """Transfer bytes, and without O_DIRECT from then on if a file system has larger blocks or wrote part of one."""
    try:
        return transfer()
    except OSError as error:
        if error.errno not in NOT_DIRECT:
            raise
        fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_DIRECT)
        return transfer()


class DirectWriter:
    """A binary file to write from start to end. A context manager, which also syncs it.

    A file system without O_DIRECT gets an ordinary file. Raises OSError.
    """

    def __init__(self, path: Path):
        """Create or truncate a file."""
        self._file = _open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._buffer = mmap.mmap(-1, BUFFER)
        self._filled = self._written = 0

    def __enter__(self) -> "DirectWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            os.close(self._file)

    def write(self, data: "bytes | bytearray | memoryview") -> int:
        """Append bytes and return how many."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            part = rest[: BUFFER - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            rest = rest[len(part) :]
            if self._filled == BUFFER:
                self._flush(BUFFER)
        return size

    def tell(self) -> int:
        """Return the bytes so far."""
        return self._written + self._filled

    def flush(self) -> None:
        """Do nothing: only whole buffers are written before the end."""

    def _flush(self, size: int) -> None:
        done = 0
        while done < size:
            with memoryview(self._buffer) as whole, whole[done:size] as part:
                done += _cached_if_need_be(self._file, partial(os.write, self._file, part))
        self._written += self._filled
        self._filled = 0

    def _finish(self) -> None:
        self._flush(-(-self._filled // BLOCK) * BLOCK)
        os.ftruncate(self._file, self._written)
        os.fsync(self._file)


class DirectReader(io.RawIOBase):
    """A binary file to read; the bytes come from the disk if its file system has O_DIRECT. Raises OSError."""

    def __init__(self, path: Path):
        """Open a file."""
        self._file = _open(path, os.O_RDONLY)
        self._size = os.fstat(self._file).st_size
        self._buffer = mmap.mmap(-1, BUFFER)
        self._start = self._end = 0  # what part of the file the buffer holds
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset and return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, into: Any) -> int:
        """Fill `into` as far as the file goes; return the bytes read."""
        rest = memoryview(into).cast("B")
        wanted = len(rest)
        while rest and self._position < self._size:
            if not self._start <= self._position < self._end:
                self._load(len(rest))
            with memoryview(self._buffer) as whole:
                part = whole[self._position - self._start : self._end - self._start][: len(rest)]
                rest[: len(part)] = part
                rest = rest[len(part) :]
                self._position += len(part)
                part.release()
        return wanted - len(rest)

    def _load(self, size: int) -> None:
        """Fill the buffer from the block of the current position, with at least one of `size` bytes."""
        self._start = self._position // BLOCK * BLOCK
        length = min(BUFFER, -(-(self._position - self._start + max(size, SMALL)) // BLOCK) * BLOCK)
        with memoryview(self._buffer) as whole, whole[:length] as part:
            read = _cached_if_need_be(self._file, lambda: os.preadv(self._file, [part], self._start))
        self._end = self._start + read
        if self._end <= self._position:
            raise OSError(f"ended after {self._end} of {self._size} bytes")

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._file)
        super().close()
