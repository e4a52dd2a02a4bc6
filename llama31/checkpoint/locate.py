"""Where checkpoints are: directories that are one, are in one, or hold some. Standard library and PyYAML."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from llama31.checkpoint import store
from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.nemo import BACKEND
from llama31.checkpoint.store import Checkpoint
from llama31.common.files import PARTIAL, failures_named

SHOWN = 5  # checkpoints in a message
_UNFINISHED = re.compile(rf"({re.escape(PARTIAL)})?({re.escape(store.DAMAGED)}(-\d+)?)?$")


def is_checkpoint(path: Path) -> bool:
    """Tell whether a directory is a checkpoint: by a name that saves give, complete or not, or by NeMo's contents.

    Of a path that this machine does not see, only the name counts.
    """
    contents = os.path.isfile(path / nemo.WEIGHTS / BACKEND) and os.path.isdir(path / nemo.CONTEXT)  # noqa: PTH112, PTH113 - never raise
    return contents or Checkpoint.at(Path(_finished_name(path))) is not None


def _finished_name(path: Path) -> str:
    """Return a directory's name without what marks an incomplete or damaged checkpoint."""
    return _UNFINISHED.sub("", path.name)


def around(path: Path) -> Path | None:
    """Return the outermost checkpoint that a path is or is in; None if there is none."""
    return next((outer for outer in reversed((path, *path.parents)) if is_checkpoint(outer)), None)


def real(path: str | Path) -> Path:
    """Return a path with all links followed, as far as they can be; never raises."""
    return Path(os.path.realpath(path))


def mistaken(path: Path, is_one: Callable[[Path], bool] = is_checkpoint, seed: int | None = None) -> str:
    """Name the checkpoint meant by a directory that is none: the one around it, or one of those in it.

    Args:
        path: A directory.
        is_one: Whether a directory is a checkpoint of the kind that is asked for.
        seed: Run whose newest checkpoint is named first.

    Returns:
        The end of a line, empty for a checkpoint and where there is none to name.
    """
    if is_one(path):
        return ""
    outer = around(real(path))
    if outer and outer != real(path):
        return f"is inside the checkpoint {outer}; name that"
    with failures_named(path):
        complete = [inner for inner in path.iterdir() if inner.is_dir() and inner.name == _finished_name(inner)]
    saved = sorted(store.listing(path), key=lambda checkpoint: checkpoint.seed != seed)  # the newest first
    found = [inner for inner in (*(checkpoint.path for checkpoint in saved), *sorted(complete)) if is_one(inner)]
    found = list(dict.fromkeys(found))
    if not found:
        return ""
    names = ", ".join(inner.name for inner in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"is not a checkpoint, it holds {names}{more}; name one of them, such as {found[0]}"
