"""One run at a time in a directory."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named


@contextmanager
def only_run_in(directory: Path) -> Iterator[None]:
    """Hold `directory` while the block runs. Raises UserError where another process does, or it cannot be opened.

    On a file system without locks nothing is held.
    """
    with failures_named(directory):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{directory}: another run is at work there; wait for its end") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
