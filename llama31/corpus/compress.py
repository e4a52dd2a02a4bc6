"""C4's .json files -> .json.gz in their place.

A source is removed only after its compressed file was read back whole from disk, held the same bytes and got its final
name. So a run that is killed loses nothing, and the next one goes on with what is left.
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
from llama31.corpus.compressed_files import DAMAGED, Members, misnamed

PATTERN = "c4-*.json"  # other .json files, such as a tokenizer's, are none of ours
LEVEL = 2  # of isal: some 20 times as fast as gzip's default, the files 15% larger
BLOCK_BYTES = 4 << 20

Content = tuple[int, str]
"""Size in bytes and SHA-256."""


def compress(directory: Path, jobs: int) -> str:
    """Compress all of DIRECTORY/c4-*.json, `jobs` at a time; gives a line that says what was done.

    Raises UserError where there is nothing, or with a line for each file that failed; the others are done all the same.
    """
    with only_run_in(directory):
        sources = sorted(directory.glob(PATTERN))
        if not sources:
            done = len(list(directory.glob(PATTERN + ".gz")))
            if not done:
                raise UserError(f"{directory}: holds no {PATTERN} and no {PATTERN}.gz")
            return f"{directory}: nothing to do, all {done:,} files are compressed"
        with Progress("compress", sum(source.stat().st_size for source in sources)) as progress:
            run_all(lambda source: _compress(source, progress), sources, jobs)
            return f"{directory}: {len(sources):,} files compressed, {progress.figures()}"


def _compress(source: Path, progress: Progress) -> None:
    target = source.with_name(source.name + ".gz")
    if problem := misnamed(source):
        raise UserError(f"{source}: {problem}")
    if target.exists():  # an earlier run was killed before it removed the source, or somebody else made it
        if _gunzipped_content(target) != _content(_pieces(source, progress)):
            raise UserError(f"{target}: is there and holds other data than {source.name}; remove one of the two")
    else:
        with atomic_writer(target) as file:
            content = _content(_compressed_to(file, _pieces(source, progress)))
            _drop_from_memory(file)
            if _gunzipped_content(Path(file.name)) != content:
                raise UserError(f"{target}: was written, but does not read back as {source.name}, which is kept")
    with failures_named(source):
        source.unlink()


def _pieces(path: Path, progress: Progress) -> Iterator[bytes]:
    with failures_named(path), open(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            yield data
            progress.add(len(data))


def _compressed_to(file: BinaryIO, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same pieces, each of which has been written to a gzip file."""
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
    """What a gzip file holds; None where it is damaged."""
    try:
        with failures_named(path), open(path, "rb") as file:
            gunzip = Members(file)
            return _content(iter(lambda: gunzip.read(BLOCK_BYTES), b""))
    except (EOFError, *DAMAGED):
        return None


def _drop_from_memory(file: BinaryIO) -> None:
    """Have the file on disk only, so that reading it back tells what the disk holds."""
    sync_open(file)
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
