"""One file on its way to disk.

While a file is fetched it is NAME.partial, with the journal of what is on disk beside it as NAME.pieces. It gets its
name when it has the size and the MD5 that are published.
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
"""Of one request."""
RECORD_BYTES = 32 << 20
"""Of a piece that are lost at most when the process is killed."""
HASH_BYTES = 4 << 20


@dataclass(frozen=True)
class Transfers:
    """What the transfers of one download share."""

    remote: Remote
    stop: Event
    fetched: Progress
    hashed: Progress
    _ending: Lock = field(default_factory=Lock)

    def end(self) -> bool:
        """Stop all transfers; returns whether this call was the first to do so."""
        with self._ending:
            is_first = not self.stop.is_set()
            self.stop.set()
            return is_first


class Target:
    """A file to fetch, or to check if it is there."""

    def __init__(self, file: RemoteFile, version: Version, path: Path):
        """Raises UserError if a file of another size has that name: it may be the user's own."""
        self.file = file
        self._version = version
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._journal = Journal(
            path.with_name(path.name + PIECES), f"size={version.size} md5={file.md5} version={version.tag}"
        )
        self._counting, self._hashing = Lock(), Lock()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = 0
        with failures_named(path):
            self._is_there = path.is_file()
            if path.exists() and (not self._is_there or path.stat().st_size != version.size):
                have = f"{path.stat().st_size:,} bytes" if self._is_there else "a directory"
                raise UserError(f"{path}: is {have}, published are {version.size:,} bytes; move or remove it")
            self._is_resumed = not self._is_there and self._can_resume()
        self.pieces = self._pieces()
        """Ranges to fetch."""
        self.missing = sum(end - start for start, end in self.pieces)
        """Bytes to fetch."""
        self.to_hash = version.size if file.md5 else 0
        """Bytes whose MD5 is computed."""
        self._left = len(self.pieces)

    def _can_resume(self) -> bool:
        """Whether the bytes that the journal names can be there."""
        size = self._partial.stat().st_size if self._partial.is_file() else 0
        return 0 < self._journal.end() <= size <= self._version.size

    def _pieces(self) -> list[Range]:
        if self._is_there:
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
        """Create the files that `fetch` writes to."""
        if not self._is_there and not self._is_resumed:
            with failures_named(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._partial.write_bytes(b"")
                self._journal.clear()

    def fetch(self, run: Transfers, piece: Range) -> None:
        """Get a piece onto the disk. Raises UserError; what arrived is kept."""
        with failures_named(self._path):
            try:
                with _Writer(self._partial, self._journal, piece[0]) as writer:
                    self._receive(run, writer, piece[1])
            except OSError:  # a full disk, most likely: the other transfers would fail as well
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
                    if writer.is_due():
                        writer.record()
                        self._hash_ahead(run)
            except Interrupted as error:
                if not attempts.failures:
                    arrived_before = run.fetched.done
                self._wait(run, attempts, error, arrived_before)

    def _wait(self, run: Transfers, attempts: Attempts, error: Interrupted, arrived_before: int) -> None:
        """Wait before another attempt. Raises UserError if there is none.

        If nothing arrived of any file since the first of these attempts, the server or the network is gone: all ends.
        """
        try:
            attempts.failed(error)
        except GivenUp as given_up:
            if run.fetched.done == arrived_before and not run.end():
                raise Stopped from None  # another thread says so already
            raise UserError(f"{self._path}: {given_up}; what arrived is kept, the same command resumes") from None

    def is_last_piece(self) -> bool:
        """Count a piece as fetched; returns whether it was the last one."""
        with self._counting:
            self._left -= 1
            return self._left == 0

    def _hash_ahead(self, run: Transfers) -> None:
        """Hash what is on disk from the beginning on, unless another thread does so already."""
        if self.file.md5 and self._hashing.acquire(blocking=False):
            try:
                self._hash(self._partial, self._journal.prefix(), run)
            finally:
                self._hashing.release()

    def _hash(self, path: Path, end: int, run: Transfers) -> None:
        """Continue the MD5 up to `end`, or where the file ends. What was fetched just now is still in memory."""
        with open(path, "rb") as file:
            file.seek(self._hashed)
            while self._hashed < end and (data := file.read(min(HASH_BYTES, end - self._hashed))):
                if run.stop.is_set():
                    raise Stopped
                self._md5.update(data)
                self._hashed += len(data)
                run.hashed.add(len(data))

    def finish(self, run: Transfers, checked: VerifiedFiles) -> None:
        """Check the file, and give it its name. Raises UserError if it is not what was published."""
        path = self._path if self._is_there else self._partial
        with failures_named(path):
            if difference := self._difference(path, run):
                if self._is_there:
                    raise UserError(f"{path}: {difference}; move or remove it to have it fetched")
                path.unlink()
                self._journal.remove()
                raise UserError(f"{self._path}: {difference}; removed, the same command fetches it again")
            if self._is_there:
                self._partial.unlink(missing_ok=True)
            else:
                publish(self._partial, self._path)
            self._journal.remove()
        checked.remember(self.file)

    def _difference(self, path: Path, run: Transfers) -> str:
        """How the file differs from what was published; empty if it does not."""
        size = path.stat().st_size
        if size != self._version.size:
            return f"{size:,} bytes, published are {self._version.size:,}"
        if self.file.md5:
            self._hash(path, size, run)
            if self._md5.hexdigest() != self.file.md5:
                return f"MD5 {self._md5.hexdigest()}, published is {self.file.md5}"
        return ""


class _Writer:
    """Writes a range of a partial file, and records in the journal how far it came."""

    def __init__(self, path: Path, journal: Journal, start: int):
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._file.seek(start)
        self._journal = journal
        self._recorded = start
        self.position = start
        """Where the next byte goes."""

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        """Record what was written, however it ended."""
        with self._file:
            self.record()

    def write(self, data: bytes) -> None:
        """Append to the range."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self.position += len(data)

    def is_due(self) -> bool:
        """Whether more is unrecorded than a kill may cost."""
        return self.position - self._recorded >= RECORD_BYTES

    def record(self) -> None:
        """Have what was written on disk, and then in the journal."""
        if self.position > self._recorded:
            sync_open(self._file)
            self._journal.add(self._recorded, self.position)
            self._recorded = self.position
