"""Writing files so that nothing half-written ever bears its final name."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from llama31.common.errors import UserError

PARTIAL = ".partial"  # appended to a file's name while it is written
HASH_BYTES = 4 << 20  # read at a time


@contextmanager
def failures_named(path: Path) -> Iterator[None]:
    """Turn an OSError inside into a UserError of one line that names `path`: full disk, no permission, ..."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def publish(partial: Path, path: Path) -> None:
    """Give the finished file `partial` its final name, for good: the directory is synchronised too."""
    partial.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Binary file that becomes `path` when the block ends without an exception, and vanishes otherwise.

    Raises UserError, naming `path`, where the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file that could be written anew; name another")  # a device would be replaced
    partial = path.with_name(path.name + PARTIAL)
    with failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            publish(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises UserError, naming it, where it cannot be read."""
    digest = hashlib.sha256()
    with failures_named(path), open(path, "rb") as file:
        while data := file.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()
