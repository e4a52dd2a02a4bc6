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

    def __init__(self, path: Path, start: int = 0):
        """Create or truncate a file; with `start`, keep this many of its bytes and append to them."""
        begun = _last_block(path, start)
        if start:
            os.truncate(path, start)
        self._file = _open(path, os.O_WRONLY | os.O_CREAT | (0 if start else os.O_TRUNC))
        self._buffer = mmap.mmap(-1, BUFFER)
        self._written = start - len(begun)
        self._keep(begun)

    def __enter__(self) -> "DirectWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.sync()
        finally:
            self.close()

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
                self._flush()
        return size

    def tell(self) -> int:
        """Return the bytes so far."""
        return self._written + self._filled

    def flush(self) -> None:
        """Do nothing: only `sync` writes less than a whole buffer."""

    def sync(self) -> None:
        """Have the bytes so far on the disk. More may follow."""
        size, begun = self.tell(), self._buffer[self._filled // BLOCK * BLOCK : self._filled]
        self._flush()
        os.ftruncate(self._file, size)
        os.fsync(self._file)
        self._written -= len(begun)
        self._keep(begun)

    def close(self) -> None:
        """Close the file, without what was written since the last `sync`."""
        os.close(self._file)

    def _keep(self, begun: bytes) -> None:
        """Put the bytes of a block that is not full into the buffer, to write the block again when more follow."""
        self._buffer[: len(begun)] = begun
        self._filled = len(begun)

    def _flush(self) -> None:
        size, done = -(-self._filled // BLOCK) * BLOCK, 0
        while done < size:
            with memoryview(self._buffer) as whole, whole[done:size] as part:
                write = partial(os.pwrite, self._file, part, self._written + done)
                done += _cached_if_need_be(self._file, write)
        self._written += self._filled
        self._filled = 0


def _last_block(path: Path, size: int) -> bytes:
    """Return the last block of a file's first `size` bytes if it is not full, else nothing."""
    if not size % BLOCK:
        return b""
    with open(path, "rb") as file:
        file.seek(size // BLOCK * BLOCK)
        return file.read(size % BLOCK)


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
