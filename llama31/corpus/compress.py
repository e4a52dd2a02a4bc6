"""Replace C4's .json files by .json.gz files.

A source is removed only after its compressed file was read back from disk, decompressed to the same bytes and got its
final name. So a killed run loses nothing, and the next run compresses the remaining files.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from isal import igzip

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named, sync_open
from llama31.common.locks import only_run_in
from llama31.common.parallel import run_all
from llama31.common.progress import Progress
from llama31.corpus.compressed_files import DAMAGED, CompressedStream, suffix_problem

PATTERN = "c4-*.json"  # not other .json files, such as a tokenizer's
LEVEL = 2  # of isal: about 20 times as fast as gzip's default, files 15% larger
BLOCK_BYTES = 4 << 20

Content = tuple[int, str]
"""Size in bytes and SHA-256."""


def compress(directory: Path, jobs: int) -> str:
    """Compress DIRECTORY/c4-*.json, `jobs` files at a time; return a summary line.

    A file that fails does not stop the others. Raises UserError with a line for each file that failed, and if there
    are no files.
    """
    with only_run_in(directory):
        sources = sorted(directory.glob(PATTERN))
        if not sources:
            done = len(list(directory.glob(PATTERN + ".gz")))
            if not done:
                raise UserError(f"{directory}: no {PATTERN} and no {PATTERN}.gz in it")
            return f"{directory}: nothing to do, all {done:,} files are compressed"
        with Progress("compress", sum(source.stat().st_size for source in sources)) as progress:
            run_all(lambda source: _compress(source, progress), sources, jobs)
            return f"{directory}: {len(sources):,} files compressed, {progress.figures()}"


def _compress(source: Path, progress: Progress) -> None:
    target = source.with_name(source.name + ".gz")
    if problem := suffix_problem(source):
        raise UserError(f"{source}: {problem}")
    if target.exists():  # made by a run that was killed before it removed the source, or by the user
        if _gunzipped_content(target) != _content(_pieces(source, progress)):
            raise UserError(f"{target}: exists, with other data than {source.name}; remove one of the two")
    else:
        with atomic_writer(target) as file:
            content = _content(_compress_to(file, _pieces(source, progress)))
            _drop_from_memory(file)
            if _gunzipped_content(Path(file.name)) != content:
                raise UserError(f"{target}: does not read back as {source.name}, which is kept")
    with failures_named(source):
        source.unlink()


def _pieces(path: Path, progress: Progress) -> Iterator[bytes]:
    with failures_named(path), open(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            yield data
            progress.add(len(data))


def _compress_to(file: BinaryIO, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Write pieces to a gzip file, and yield each one after it was written."""
    with igzip.IGzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=file, mtime=0) as gzip:
        for data in pieces:
            gzip.write(data)
            yield data


def _content(pieces: Iterable[bytes]) -> Content:
    size, sha256 = 0, hashlib.sha256()
    for data in pieces:
        size += len(data)
        sha256.update(data)
    return size, sha256.hexdigest()


def _gunzipped_content(path: Path) -> Content | None:
    """Return size and hash of a gzip file's contents; None if it is damaged."""
    try:
        with failures_named(path), open(path, "rb") as file:
            gunzip = CompressedStream(file)
            return _content(iter(lambda: gunzip.read(BLOCK_BYTES), b""))
    except (EOFError, *DAMAGED):
        return None


def _drop_from_memory(file: BinaryIO) -> None:
    """Sync a file and drop it from the page cache, so that reading it back reads the disk."""
    sync_open(file)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
