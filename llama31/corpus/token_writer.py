"""Writer of token files. It writes ids and lengths as they arrive, so memory does not grow with the corpus."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from llama31.common.direct_file import DirectWriter
from llama31.common.files import PARTIAL, failures_named, publish, sync_open
from llama31.common.locks import temporary_lock
from llama31.data.token_file import HEADER, MAGIC, VERSION, TokenType, bin_path, idx_path

BLOCK_DOCUMENTS = 1 << 20  # index entries computed at a time
READ_BYTES = 16 << 20

Buffer = bytes | memoryview


@dataclass(frozen=True)
class Extent:
    """The part of a token file that is durable on disk."""

    documents: int
    bin_bytes: int
    bin_sha256: str
    """SHA-256 of the first `bin_bytes` of the .bin, in hexadecimal."""


EMPTY = Extent(0, 0, hashlib.sha256().hexdigest())


class DamagedExtent(Exception):
    """Raised if the data that an Extent describes is missing or different."""


class TokenWriter:
    """Writer of PREFIX.bin and PREFIX.idx under temporary names, resumable from what `sync` returned.

    A context manager. If the block ends without an exception, both files get their final names, .bin first, so that an
    .idx always describes a complete .bin. Otherwise existing final files stay, and the temporary files are kept if
    `sync` was called, else removed. Raises UserError, naming the file, if one cannot be written (full disk, no
    permission). No other process may write the same files at the same time: see `exclusive`.
    """

    def __init__(self, prefix: str | Path, token_type: TokenType, start: Extent = EMPTY):
        """`start`: result of an earlier `sync`; entering raises DamagedExtent if it is not on disk."""
        self.prefix = Path(prefix)
        self.token_type = token_type
        self.documents = start.documents
        self.bin_bytes = start.bin_bytes
        self._start = start
        self._resumable = start != EMPTY
        self._bin_sha256, self._idx_sha256 = hashlib.sha256(), hashlib.sha256()
        self._bin_path, self._idx_path = bin_path(self.prefix), idx_path(self.prefix)

    @property
    def tokens(self) -> int:
        """Tokens written so far."""
        return self.bin_bytes // self.token_type.itemsize

    @property
    def bin_sha256(self) -> str:
        """SHA-256 of the .bin so far, in hexadecimal."""
        return self._bin_sha256.hexdigest()

    @property
    def idx_sha256(self) -> str:
        """SHA-256 of the .idx, in hexadecimal; valid once the files have their final names."""
        return self._idx_sha256.hexdigest()

    def __enter__(self) -> "TokenWriter":
        with failures_named(self._bin_path):
            self.prefix.parent.mkdir(parents=True, exist_ok=True)
            self._verify_start()
            self._bin = DirectWriter(partial(self._bin_path), self.bin_bytes)
        try:
            with failures_named(self._idx_path):
                self._idx = self._index_to_append()
        except BaseException:
            self._bin.close()
            raise
        return self

    def _verify_start(self) -> None:
        with _open_or_create(partial(self._bin_path)) as file:
            for data in _blocks(file, 0, self.bin_bytes):
                self._bin_sha256.update(data)
        if self.bin_sha256 != self._start.bin_sha256:
            raise DamagedExtent(f"{partial(self._bin_path)} is damaged")

    def _index_to_append(self) -> BinaryIO:
        file = _open_or_create(partial(self._idx_path))
        try:
            end = HEADER.size + 4 * self.documents
            if self._resumable and os.fstat(file.fileno()).st_size < end:
                raise DamagedExtent(f"{partial(self._idx_path)} is truncated")
            _resize(file, end)
        except BaseException:
            file.close()
            raise
        return file

    def write(self, tokens: Buffer, lengths: Buffer) -> None:
        """Append documents, none empty: their concatenated ids, in the file's type, and the number of each (int32)."""
        with failures_named(self._bin_path):
            self._bin_sha256.update(tokens)
            self._bin.write(tokens)
        with failures_named(self._idx_path):
            self._idx.write(lengths)
        self.bin_bytes += memoryview(tokens).nbytes
        self.documents += memoryview(lengths).nbytes // 4

    def sync(self) -> Extent:
        """Flush everything written so far to disk; return the Extent to resume from after a crash."""
        with failures_named(self._bin_path):
            self._bin.sync()
        with failures_named(self._idx_path):
            sync_open(self._idx)
        self._resumable = True
        return Extent(self.documents, self.bin_bytes, self.bin_sha256)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._close()
            if not self._resumable:
                discard(self.prefix)

    def _finish(self) -> None:
        with failures_named(self._idx_path):
            self._complete_index()
            sync_open(self._idx)
        with failures_named(self._bin_path):
            self._bin.sync()
            self._idx_path.unlink(missing_ok=True)  # an older index must not describe the new .bin, even for a moment
            publish(partial(self._bin_path), self._bin_path)
        with failures_named(self._idx_path):
            publish(partial(self._idx_path), self._idx_path)

    def _complete_index(self) -> None:
        """Write the header, and append the pointers and the document index to the lengths."""
        self._idx.flush()
        header = HEADER.pack(MAGIC, VERSION, self.token_type.code, self.documents, self.documents + 1)
        self._idx_sha256.update(header)
        for lengths in self._lengths():
            self._idx_sha256.update(lengths)
        end = 0
        for lengths in self._lengths():
            ends = end + np.cumsum(lengths, dtype="<i8") * self.token_type.itemsize
            self._append(np.concatenate(([end], ends[:-1])).astype("<i8"))
            end = int(ends[-1])
        for start in range(0, self.documents + 1, BLOCK_DOCUMENTS):
            self._append(np.arange(start, min(start + BLOCK_DOCUMENTS, self.documents + 1), dtype="<i8"))
        self._idx.flush()
        os.pwrite(self._idx.fileno(), header, 0)

    def _lengths(self) -> Iterator[np.ndarray[Any, Any]]:
        for data in _blocks(self._idx, HEADER.size, 4 * self.documents, 4 * BLOCK_DOCUMENTS):
            yield np.frombuffer(data, "<i4")

    def _append(self, entries: np.ndarray[Any, Any]) -> None:
        self._idx.write(entries.data)
        self._idx_sha256.update(entries.data)

    def _close(self) -> None:
        self._bin.close()
        try:
            self._idx.close()
        except OSError:
            pass  # after a full disk, flushing the rest of the buffer fails again


def partial(path: Path) -> Path:
    """Return the temporary name of a file while it is written."""
    return path.with_name(path.name + PARTIAL)


def exclusive(prefix: Path) -> AbstractContextManager[None]:
    """Lock PREFIX, by the file PREFIX.lock. Raises UserError if another process has locked it."""
    path = prefix.with_name(f"{prefix.name}.lock")
    return temporary_lock(path, f"{prefix}: another process is writing it")


def discard(prefix: Path) -> None:
    """Remove the temporary files of an unfinished TokenWriter."""
    for path in (bin_path(prefix), idx_path(prefix)):
        with failures_named(path):
            partial(path).unlink(missing_ok=True)


def unpublish(prefix: Path) -> None:
    """Rename finished files back to their temporary names, after a kill between the two renames or after both."""
    for path in (bin_path(prefix), idx_path(prefix)):
        with failures_named(path):
            if path.exists() and not partial(path).exists():
                path.rename(partial(path))


def _open_or_create(path: Path) -> BinaryIO:
    """Open a file to read and write; create it if missing."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _resize(file: BinaryIO, size: int) -> None:
    """Truncate or zero-pad a file to `size` bytes, and seek to its end."""
    current = os.fstat(file.fileno()).st_size
    if current > size:
        file.truncate(size)
    file.seek(min(current, size))
    file.write(bytes(max(0, size - current)))


def _blocks(file: BinaryIO, start: int, size: int, block_bytes: int = READ_BYTES) -> Iterator[bytes]:
    """Yield `size` bytes of a file from `start` on, fewer if it ends before, without moving its position."""
    for offset in range(start, start + size, block_bytes):
        yield os.pread(file.fileno(), min(block_bytes, start + size - offset), offset)
