"""Remove this process's temporary directories, which Python would do at its end: ranks end by os._exit."""

import multiprocessing
import shutil
import tempfile
import weakref
from typing import Any


def remove() -> None:
    """Remove what this process made by tempfile.TemporaryDirectory, and the directory of multiprocessing's sockets."""
    registry: Any = weakref.finalize._registry  # type: ignore[attr-defined]
    for finalizer in list(registry):
        found = finalizer.peek()
        if found and isinstance(found[0], tempfile.TemporaryDirectory):
            shutil.rmtree(found[0].name, ignore_errors=True)
    configuration: Any = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if directory := configuration.get("tempdir"):
        shutil.rmtree(directory, ignore_errors=True)
