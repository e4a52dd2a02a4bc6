"""Files of a bucket -> a directory, in pieces that are fetched side by side and never twice.

While a file is fetched it is NAME.partial, with the list of its pieces that are on disk beside it as NAME.pieces. It
gets its name when it has the size and the hash that the bucket states.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from llama31 import rules
from llama31.corpus.files import PARTIAL, failures_named, publish
from llama31.corpus.locking import only_run_in
from llama31.corpus.progress import Progress
from llama31.corpus.rclone import Interrupted, RemoteDirectory, RemoteFile
from llama31.corpus.side_by_side import run_all
from llama31.errors import UserError

PIECE_BYTES = 256 << 20
READ_BYTES = 16 << 20
ATTEMPTS = 6  # without any byte of a piece, with twice the pause after each; then it is given up
PAUSE = 0.25  # seconds
DIGITS = 20  # of an offset in the journal: a line that a crash cut short is told by its length
TRAIN_SHARD = re.compile(r"c4-train\.(\d{5})-of-")


def download(remote: RemoteDirectory, directory: Path, parts: Sequence[int], jobs: int) -> str:
    """Fetch all files, of the training shards those of `parts`, `jobs` pieces at a time; gives a line to print.

    What is there is checked and not fetched again. Raises UserError with a line for each file that cannot be had.
    """
    wanted = [file for file in remote.files() if _is_wanted(file, parts)]
    with failures_named(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with only_run_in(directory):
        targets = [Target(file, directory / file.path) for file in wanted]
        missing = sum(target.missing() for target in targets)
        free = shutil.disk_usage(directory).free
        if missing > free:
            raise UserError(f"{directory}: {missing / 1e6:,.0f} MB to come, and {free / 1e6:,.0f} MB of disk are free")
        with Progress("download", missing) as progress:
            for target in targets:
                target.prepare()
            pieces = [(target, offset) for target in targets for offset in target.pieces()]
            run_all(lambda piece: piece[0].fetch(remote, piece[1], progress), pieces, jobs)
            figures = progress.figures()
        with Progress("check", sum(file.size for file in wanted)) as progress:
            run_all(lambda target: target.finish(progress), targets, jobs)
    hashed = sum(bool(file.md5) for file in wanted)
    checked = "sizes and hashes are right"
    if hashed < len(wanted):
        checked = f"sizes are right, and hashes of the {hashed:,} files whose hash the bucket knows"
    return f"{directory}: {len(wanted):,} files; fetched {figures}; {checked}"


def _is_wanted(file: RemoteFile, parts: Sequence[int]) -> bool:
    shard = TRAIN_SHARD.search(file.path)
    return not shard or int(shard[1]) // rules.SHARDS_PER_PART in parts


class Target:
    """A file to be fetched, and how much of it is on disk."""

    def __init__(self, file: RemoteFile, path: Path):
        self._file = file
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._journal = path.with_name(path.name + ".pieces")
        self._lock = Lock()
        with failures_named(path):
            self._is_whole = path.is_file() and path.stat().st_size == file.size
            self._done = set() if self._is_whole else self._pieces_on_disk()

    @property
    def _title(self) -> str:
        """First line of the journal: what its pieces are of."""
        return f"{self._file.size} {self._file.md5} {PIECE_BYTES}"

    def _pieces_on_disk(self) -> set[int]:
        """Offsets of the pieces that an earlier run fetched; none where the file in the bucket has changed since."""
        if not (self._journal.is_file() and self._partial.is_file()):
            return set()
        with failures_named(self._journal):
            title, *lines = self._journal.read_text().split("\n")
        return {int(line) for line in lines if len(line) == DIGITS} if title == self._title else set()

    def prepare(self) -> None:
        """Have the files there that `fetch` writes to."""
        if not self._is_whole and not self._done:
            with failures_named(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._partial.write_bytes(b"")
                self._journal.write_text(self._title + "\n")

    def _length(self, offset: int) -> int:
        return min(PIECE_BYTES, self._file.size - offset)

    def pieces(self) -> list[int]:
        """Offsets of the pieces to fetch."""
        if self._is_whole:
            return []
        return [offset for offset in range(0, self._file.size, PIECE_BYTES) if offset not in self._done]

    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(map(self._length, self.pieces()))

    def fetch(self, remote: RemoteDirectory, offset: int, progress: Progress) -> None:
        """Get a piece onto the disk; where the connection is cut, go on from the last byte that came."""
        end = offset + self._length(offset)
        position, failures = offset, 0
        with failures_named(self._path), open(self._partial, "r+b") as partial:
            while position < end:
                try:
                    for data in remote.read(self._file, position, end - position):
                        os.pwrite(partial.fileno(), data, position)
                        position += len(data)
                        failures = 0
                        progress.add(len(data))
                except Interrupted as error:
                    failures += 1
                    if failures == ATTEMPTS:
                        raise UserError(f"{self._path}: not fetched: {error}; what came is kept") from None
                    time.sleep(PAUSE * 2**failures)
            os.fsync(partial.fileno())
            with self._lock, open(self._journal, "a") as journal:
                journal.write(f"{offset:0{DIGITS}}\n")

    def finish(self, progress: Progress) -> None:
        """Check the file, and give it its name. Raises UserError, and removes it, where it is not what it should be."""
        path = self._path if self._is_whole else self._partial
        with failures_named(path):
            if difference := self._difference(path, progress):
                path.unlink()
                self._journal.unlink(missing_ok=True)
                raise UserError(f"{self._path}: {difference}; removed, the next run fetches it anew")
            if not self._is_whole:
                publish(self._partial, self._path)
            self._journal.unlink(missing_ok=True)

    def _difference(self, path: Path, progress: Progress) -> str:
        """How a file differs from what the bucket states; empty where it does not."""
        size = path.stat().st_size
        if size != self._file.size:
            return f"{size:,} bytes, the bucket says {self._file.size:,}"
        if self._file.md5 and (md5 := _md5(path, progress)) != self._file.md5:
            return f"MD5 {md5}, the bucket says {self._file.md5}"
        return ""


def _md5(path: Path, progress: Progress) -> str:
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while data := file.read(READ_BYTES):
            md5.update(data)
            progress.add(len(data))
    return md5.hexdigest()
