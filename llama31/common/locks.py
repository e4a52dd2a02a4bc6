"""Locks between processes (flock). On a file system without locks every attempt succeeds.

The kernel releases a lock when its holder ends, however it ends.
"""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from llama31.common.errors import UserError
from llama31.common.files import failures_named

POLL_SECONDS = 1


@contextmanager
def only_run_in(directory: Path) -> Iterator[None]:
    """Lock a directory while the block runs. Raises UserError if it is locked already or cannot be opened."""
    with failures_named(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not _acquire(descriptor):
            raise UserError(f"{directory}: another run is using it; wait until that ends")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def temporary_lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, and remove it then; see `lock_file`."""
    with lock_file(path, refusal, removed_after=True):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def lock_file(path: Path, refusal: str = "", *, patience: float = 0, removed_after: bool = False) -> TextIO:
    """Return the lock file `path`, created if missing, open for writing; closing it releases the lock.

    Raises UserError with the line `refusal` if another process holds the lock for more than `patience` seconds, and if
    the file cannot be opened. With `removed_after` the last holder removes the file.
    """
    with failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8")
            if not _acquire(file.fileno(), patience):
                file.close()
                raise UserError(refusal)
            if not removed_after or _is_at(path, file):
                return file
            file.close()  # its holder removed it before we locked it


def is_locked(path: Path) -> bool | None:
    """Return whether a process holds the lock file `path`; None if that is unknown.

    It is unknown if the file cannot be opened or its file system has no locks. Some file systems do not show the locks
    of other machines.
    """
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _acquire(descriptor: int, patience: float = 0) -> bool:
    """Lock an open file or directory. Return False if another process holds it for more than `patience` seconds."""
    deadline = time.monotonic() + patience
    how = fcntl.LOCK_EX | (0 if patience == math.inf else fcntl.LOCK_NB)
    while True:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
            continue
        except OSError:  # no locks on this file system
            pass
        return True


def _is_at(path: Path, file: TextIO) -> bool:
    """Return whether `path` is still the name of an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
