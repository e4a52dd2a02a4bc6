"""The download of one file.

During the download the file is NAME.partial, and NAME.pieces is the journal of its bytes on disk. It gets its final
name once it has the published size and MD5.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named, publish, sync_open
from llama31.common.progress import Progress
from llama31.corpus.download.journal import Journal, Range
from llama31.corpus.download.remote import PIECES, Interrupted, Remote, RemoteFile, Version
from llama31.corpus.download.retries import Attempts, GivenUp, Stopped
from llama31.corpus.download.verified import VerifiedFiles

PIECE_BYTES = 256 << 20
"""Size of one request."""
RECORD_BYTES = 32 << 20
"""Most bytes of a piece that a kill loses."""
HASH_BYTES = 4 << 20


@dataclass(frozen=True)
class Transfers:
    """State shared by all transfers of a download."""

    remote: Remote
    stop: Event
    fetched: Progress
    hashed: Progress
    _stop_lock: Lock = field(default_factory=Lock)

    def stop_all(self) -> bool:
        """Stop all transfers; return whether this call was the first to do so."""
        with self._stop_lock:
            is_first = not self.stop.is_set()
            self.stop.set()
            return is_first


class Target:
    """A file to fetch, or to check if it exists."""

    def __init__(self, file: RemoteFile, version: Version, path: Path):
        """Raises UserError if a file of another size exists at `path`: it may be the user's own."""
        self.file = file
        self._version = version
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._journal = Journal(
            path.with_name(path.name + PIECES), f"size={version.size} md5={file.md5} version={version.tag}"
        )
        self._count_lock, self._hash_lock = Lock(), Lock()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = 0
        with failures_named(path):
            self._exists = path.is_file()
            if path.exists() and (not self._exists or path.stat().st_size != version.size):
                found = f"{path.stat().st_size:,} bytes" if self._exists else "a directory"
                raise UserError(f"{path}: {found}, the published file has {version.size:,} bytes; move or remove it")
            self._is_resumed = not self._exists and self._can_resume()
        self.pieces = self._pieces()
        """Ranges to fetch."""
        self.missing = sum(end - start for start, end in self.pieces)
        """Bytes to fetch."""
        self.to_hash = version.size if file.md5 else 0
        """Bytes whose MD5 is computed."""
        self._pieces_left = len(self.pieces)

    def _can_resume(self) -> bool:
        """Return whether the partial file is large enough for the journal's ranges."""
        size = self._partial.stat().st_size if self._partial.is_file() else 0
        return 0 < self._journal.end() <= size <= self._version.size

    def _pieces(self) -> list[Range]:
        if self._exists:
            return []
        size = self._version.size
        gaps = self._journal.gaps(size) if self._is_resumed else [(0, size)] if size else []
        if gaps and not self._version.has_ranges:
            self._is_resumed = False
            return [(0, size)]
        return [
            (start, min(start + PIECE_BYTES, end)) for first, end in gaps for start in range(first, end, PIECE_BYTES)
        ]

    def prepare(self) -> None:
        """Create the files that `fetch` writes to, unless the download resumes."""
        if not self._exists and not self._is_resumed:
            with failures_named(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._partial.write_bytes(b"")
                self._journal.clear()

    def fetch(self, run: Transfers, piece: Range) -> None:
        """Write a piece to disk. On UserError, the bytes that arrived are kept."""
        with failures_named(self._path):
            try:
                with _Writer(self._partial, self._journal, piece[0]) as writer:
                    self._receive(run, writer, piece[1])
            except OSError:  # most likely a full disk: the other transfers would fail too
                run.stop.set()
                raise

    def _receive(self, run: Transfers, writer: "_Writer", end: int) -> None:
        attempts, arrived_before = Attempts(run.stop, run.fetched.note), 0
        while writer.position < end:
            try:
                for data in run.remote.read(self.file, self._version, writer.position, end - writer.position):
                    writer.write(data)
                    attempts.succeeded()
                    run.fetched.add(len(data))
                    if run.stop.is_set():
                        raise Stopped
                    if writer.is_record_due():
                        writer.record()
                        self._hash_ahead(run)
            except Interrupted as error:
                if not attempts.failures:
                    arrived_before = run.fetched.done
                self._wait(run, attempts, error, arrived_before)

    def _wait(self, run: Transfers, attempts: Attempts, error: Interrupted, arrived_before: int) -> None:
        """Wait before another attempt. Raises UserError after the last one.

        If no file received any bytes since the first of these attempts, the server or the network is down, and the
        whole download ends.
        """
        try:
            attempts.failed(error)
        except GivenUp as given_up:
            if run.fetched.done == arrived_before and not run.stop_all():
                raise Stopped from None  # another thread reports it
            raise UserError(f"{self._path}: {given_up}; run the same command to resume") from None

    def finish_piece(self) -> bool:
        """Count a piece as fetched; return whether it was the last one."""
        with self._count_lock:
            self._pieces_left -= 1
            return self._pieces_left == 0

    def _hash_ahead(self, run: Transfers) -> None:
        """Hash the file up to its first gap, unless another thread is hashing it."""
        if self.file.md5 and self._hash_lock.acquire(blocking=False):
            try:
                self._hash(self._partial, self._journal.prefix(), run)
            finally:
                self._hash_lock.release()

    def _hash(self, path: Path, end: int, run: Transfers) -> None:
        """Continue the MD5 up to `end` or the end of the file. Recently fetched bytes are still in the page cache."""
        with open(path, "rb") as file:
            file.seek(self._hashed)
            while self._hashed < end and (data := file.read(min(HASH_BYTES, end - self._hashed))):
                if run.stop.is_set():
                    raise Stopped
                self._md5.update(data)
                self._hashed += len(data)
                run.hashed.add(len(data))

    def finish(self, run: Transfers, verified: VerifiedFiles) -> None:
        """Check the file and give it its final name. Raises UserError if it differs from the published file."""
        path = self._path if self._exists else self._partial
        with failures_named(path):
            if difference := self._difference(path, run):
                if self._exists:
                    raise UserError(f"{path}: {difference}; move or remove it to fetch it")
                path.unlink()
                self._journal.remove()
                raise UserError(f"{self._path}: {difference}; removed; run the same command to fetch it again")
            if self._exists:
                self._partial.unlink(missing_ok=True)
            else:
                publish(self._partial, self._path)
            self._journal.remove()
        verified.add(self.file)

    def _difference(self, path: Path, run: Transfers) -> str:
        """Return how the file differs from the published file; empty if it does not."""
        size = path.stat().st_size
        if size != self._version.size:
            return f"{size:,} bytes, the published file has {self._version.size:,}"
        if self.file.md5:
            self._hash(path, size, run)
            if self._md5.hexdigest() != self.file.md5:
                return f"MD5 {self._md5.hexdigest()}, the published file's is {self.file.md5}"
        return ""


class _Writer:
    """Writer of a range of a partial file, which records its progress in the journal."""

    def __init__(self, path: Path, journal: Journal, start: int):
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._file.seek(start)
        self._journal = journal
        self._recorded = start
        self.position = start
        """Offset of the next byte."""

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        """Record the bytes written, also after an exception."""
        with self._file:
            self.record()

    def write(self, data: bytes) -> None:
        """Append data to the range."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.position += len(data)

    def is_record_due(self) -> bool:
        """Return whether RECORD_BYTES or more are unrecorded."""
        return self.position - self._recorded >= RECORD_BYTES

    def record(self) -> None:
        """Flush the bytes written to disk, then record them in the journal."""
        if self.position > self._recorded:
            sync_open(self._file)
            self._journal.add(self._recorded, self.position)
            self._recorded = self.position
