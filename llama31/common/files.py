"""Writing files that appear under their final name only when complete; syncing and hashing; free space."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llama31.common.errors import UserError

PARTIAL = ".partial"  # suffix of a file that is being written
HASH_BYTES = 4 << 20  # read at a time
PROBES, PROBE_BYTES = 64, 65_536  # pieces of a file that `probe` hashes, evenly spaced


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turn an OSError into a one-line UserError that names `path`: disk full, permission denied, ...

    An unrelated file, such as one that is copied to `path`, is named after it.
    """
    try:
        yield
    except OSError as error:
        failed = error.filename if isinstance(error.filename, str) else ""
        is_other = failed.startswith("/") and not (failed.startswith(str(path)) or str(path).startswith(failed))
        raise UserError(f"{path}: {f'{failed}: ' * is_other}{error.strerror or error}") from error


def publish(partial: Path, path: Path) -> None:
    """Rename the finished file or directory `partial` to `path` and sync the parent directory."""
    partial.replace(path)
    sync(path.parent)


def rename_if_first(partial: Path, path: Path) -> None:
    """Give the finished file `partial` the name `path`. Raises FileExistsError if another process was first.

    Works without hard links, too, which exFAT and some FUSE file systems lack.
    """
    try:
        os.link(partial, path)  # the only rename of POSIX that replaces nothing
    except FileExistsError:
        raise
    except OSError:
        path.with_name(f".{path.name}.first").mkdir()  # of several processes, one makes it
        partial.rename(path)
    else:
        partial.unlink()


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that becomes `path` when the block succeeds and is removed when it fails.

    Raises UserError, naming `path`, if the file cannot be written.
    """
    with published_when_complete(path) as partial, open(partial, "wb") as file:
        yield file
        sync_open(file)


@contextmanager
def published_when_complete(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write and sync, which becomes `path` as `atomic_writer` says."""
    if path.exists() and not path.is_file():  # a device would be replaced
        raise UserError(f"{path}: not a regular file, so it cannot be overwritten; name another")
    partial = path.with_name(path.name + PARTIAL)
    with failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            publish(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def sync_open(file: BinaryIO) -> None:
    """Flush an open file and fsync it."""
    file.flush()
    os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Fsync a file, or the entries of a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path, *, directories_only: bool = False) -> None:
    """Fsync a directory and everything below it."""
    for path in (*root.rglob("*"), root):
        if path.is_dir() or not directories_only:
            sync(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises UserError, naming it, if it cannot be read."""
    with failures_named(path):
        return size_and_sha256(path)[1]


def size_and_sha256(
    path: Path, on_read: Callable[[int], None] = lambda _: None, *, from_disk: bool = False
) -> tuple[int, str]:
    """Return the bytes and the SHA-256 of a file. Calls `on_read` with the bytes of each chunk. Raises OSError.

    With `from_disk`, the file is dropped from the page cache first, to read what the disk holds.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        if from_disk:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
            size += len(chunk)
            on_read(len(chunk))
    return size, digest.hexdigest()


def probe(path: Path) -> str:
    """Return SHA-256 of a file's size and evenly spaced pieces; a small file is hashed completely.

    Raises UserError, naming it, if it cannot be read.
    """
    with failures_named(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size}\n".encode())
        last = max(0, size - PROBE_BYTES)
        for start in sorted({last * piece // (PROBES - 1) for piece in range(PROBES)}):
            digest.update(os.pread(file.fileno(), PROBE_BYTES, start))
    return digest.hexdigest()


def free_bytes(path: Path) -> float:
    """Return the free space of a path's file system; infinity where it tells none, as some FUSE mounts. Raises OSError.

    The path, or a parent of it, must exist.
    """
    found = shutil.disk_usage(nearest_existing(path))
    return found.free if found.total else math.inf


def real_path(path: Path) -> Path:
    """Return an absolute path without links.

    A link to itself is returned as it is, so that opening it fails; `Path.resolve` raises RuntimeError for it.
    """
    return Path(os.path.realpath(path))


def nearest_existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists. Raises OSError if one cannot be examined."""
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def is_writable_directory(path: Path) -> bool:
    """Return whether this user may create files in `path`."""
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def can_be_created(directory: Path) -> bool:
    """Return whether this user may write to a directory, creating it if it is missing."""
    try:
        return is_writable_directory(nearest_existing(directory))
    except OSError:  # no permission to look, or the name is too long
        return False
