"""One process at a time that makes a token file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named


@contextmanager
def writing(prefix: Path) -> Iterator[None]:
    """Hold PREFIX while the block runs, by the file PREFIX.lock. Raises UserError where another process does.

    What a killed process held is free again. On a file system without locks nothing is held.
    """
    path = prefix.with_name(f"{prefix.name}.lock")
    handle = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    with failures_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                raise UserError(f"{path.with_suffix('')}: another process is writing it") from None
            except OSError:
                return handle
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
            os.close(handle)  # that of a process which ended, and removed it, in between
