"""Removing checkpoints, never together with something that no save wrote."""

import os
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from llama31.checkpoint import store
from llama31.checkpoint.formats.hugging_face import CONFIG, GENERATION_CONFIG, SMALL_FILES
from llama31.checkpoint.formats.nemo import BACKEND, CONTEXT, MODEL, TOKENIZER, WEIGHTS
from llama31.checkpoint.store import MANIFEST
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named
from llama31.config import paths

_PICKLE = "-".join("?" * length for length in (8, 4, 4, 4, 12))  # NeMo names them by UUIDs
_TOKENIZER = (*SMALL_FILES, GENERATION_CONFIG, CONFIG)
_WRITTEN: dict[str, tuple[str, ...]] = {
    ".": (WEIGHTS, CONTEXT, TOKENIZER, MANIFEST, MANIFEST + PARTIAL, paths.MLPERF_LOG, paths.METRICS),
    WEIGHTS: ("__*_*.distcp", "common.pt", BACKEND, ".metadata", "*.metadata.tmp"),
    CONTEXT: ("io.json", MODEL, TOKENIZER, _PICKLE),
    f"{CONTEXT}/{TOKENIZER}": _TOKENIZER,
    TOKENIZER: _TOKENIZER,
}
"""Directory in a checkpoint -> what a save writes there."""


def foreign(path: Path) -> str:
    """Find something in a checkpoint that no save wrote; return its path in the checkpoint, empty if there is nothing.

    A complete checkpoint holds what its manifest lists; one without, which a killed save left, what saves write. A link
    is never a save's. Raises UserError for a directory that cannot be read.
    """
    if path.is_symlink():
        return "a link"
    try:
        listed = {MANIFEST, *store.read_manifest(path).files}
        listed |= {str(parent) for name in listed for parent in Path(name).parents}
    except UserError:
        listed = set()
    with failures_named(path):
        for inner in _walk(path):
            name = inner.relative_to(path)
            known = str(name) in listed if listed else _is_written(name)
            if inner.is_symlink() or not known:
                return str(name)
    return ""


def _walk(path: Path) -> Iterator[Path]:
    """All files and directories below a directory, each before what is in it; links are not followed."""
    for inner in sorted(path.iterdir()):
        yield inner
        if inner.is_dir() and not inner.is_symlink():
            yield from _walk(inner)


def _is_written(name: Path) -> bool:
    return any(fnmatch(name.name, pattern) for pattern in _WRITTEN.get(str(name.parent), ()))


def _remove(path: Path) -> None:
    """Removes a checkpoint; if that is interrupted, what is left has the name of an incomplete one."""
    with failures_named(path):
        if not path.name.endswith(PARTIAL):
            path = path.rename(path.with_name(path.name + PARTIAL))
        shutil.rmtree(path)


def clear(partial: Path) -> str:
    """Remove what a killed save left, or rename it if it holds something that no save wrote; return a line about it."""
    if found := foreign(partial):
        return f"{partial}: holds what no save wrote ({found}): renamed {set_aside(partial).name}"
    _remove(partial)
    return f"{partial}: removed, a save that was killed"


def set_aside(path: Path) -> Path:
    """Gives a damaged checkpoint a name of its own that is none of a checkpoint; gives that."""
    names = (path.name + store.DAMAGED, *(f"{path.name}{store.DAMAGED}-{number}" for number in range(2, 1000)))
    new = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    with failures_named(path):
        path.rename(new)
    return new


def prune(root: Path, seed: int, keep: int, newest: Path) -> list[str]:
    """Remove the run's checkpoints but the `keep` newest (0: none), and never `newest`.

    Returns a line for each that stays because it holds something that no save wrote.
    """
    older = [checkpoint.path for checkpoint in store.listing(root, seed) if checkpoint.path != newest]
    stay = []
    for path in older[keep - 1 :] if keep else ():
        if found := foreign(path):
            stay.append(f"{path}: not removed, it holds what no save wrote ({found}); move that away")
        else:
            _remove(path)
    return stay
