"""Recognize checkpoint directories, directories inside one, and directories of checkpoints. Needs only PyYAML."""

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
    """Return whether a directory is a checkpoint, by its name (also incomplete or damaged) or by NeMo's files in it.

    Never raises. For a path that this machine cannot see, only the name counts.
    """
    contents = os.path.isfile(path / nemo.WEIGHTS / BACKEND) and os.path.isdir(path / nemo.CONTEXT)  # noqa: PTH112, PTH113 - never raise
    return contents or Checkpoint.at(Path(_finished_name(path))) is not None


def _finished_name(path: Path) -> str:
    """Return a directory's name without the suffixes of incomplete and damaged checkpoints."""
    return _UNFINISHED.sub("", path.name)


def enclosing_checkpoint(path: Path) -> Path | None:
    """Return the outermost checkpoint among a path and its parents; None if there is none."""
    return next((outer for outer in reversed((path, *path.parents)) if is_checkpoint(outer)), None)


def resolve(path: str | Path) -> Path:
    """Resolve symbolic links in a path, as far as possible; never raises."""
    return Path(os.path.realpath(path))


def not_a_checkpoint(path: Path, is_wanted: Callable[[Path], bool] = is_checkpoint, seed: int | None = None) -> str:
    """Return the end of a message if a directory is not a checkpoint but is inside one or holds some; else "".

    `is_wanted` recognizes checkpoints of the requested format. The newest one of the run of `seed` is suggested first.
    """
    if is_wanted(path):
        return ""
    if (outer := enclosing_checkpoint(resolve(path))) and outer != resolve(path):
        return f"is inside the checkpoint {outer}; name that"
    with failures_named(path):
        complete = [inner for inner in path.iterdir() if inner.is_dir() and inner.name == _finished_name(inner)]
    saved = sorted(store.listing(path), key=lambda checkpoint: checkpoint.seed != seed)  # stable: newest first
    inside = dict.fromkeys((*(checkpoint.path for checkpoint in saved), *sorted(complete)))
    found = [inner for inner in inside if is_wanted(inner)]
    if not found:
        return ""
    names = ", ".join(inner.name for inner in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"is not a checkpoint, it holds {names}{more}; name one of them, such as {found[0]}"
