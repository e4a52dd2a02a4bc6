"""Remove checkpoints, but never files in them that a save did not write."""

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

_PICKLE = "-".join("?" * length for length in (8, 4, 4, 4, 12))  # a UUID, NeMo's name of a pickle
_TOKENIZER = (*SMALL_FILES, GENERATION_CONFIG, CONFIG)
_WRITTEN: dict[str, tuple[str, ...]] = {
    ".": (WEIGHTS, CONTEXT, TOKENIZER, MANIFEST, MANIFEST + PARTIAL, paths.MLPERF_LOG, paths.METRICS),
    WEIGHTS: ("__*_*.distcp", "common.pt", BACKEND, ".metadata", "*.metadata.tmp"),
    CONTEXT: ("io.json", MODEL, TOKENIZER, _PICKLE),
    f"{CONTEXT}/{TOKENIZER}": _TOKENIZER,
    TOKENIZER: _TOKENIZER,
}
"""Directory in a checkpoint -> patterns of the files that a save writes there."""


def foreign_file(path: Path) -> str:
    """Return the first path in a checkpoint that a save did not write, relative to the checkpoint; empty if none.

    Files are checked against the manifest, or if a killed save left none, against the patterns of a save's files.
    Links are always foreign. Raises UserError if a directory cannot be read.
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
    """Yield everything below a directory, each directory before its contents; do not follow links."""
    for inner in sorted(path.iterdir()):
        yield inner
        if inner.is_dir() and not inner.is_symlink():
            yield from _walk(inner)


def _is_written(name: Path) -> bool:
    return any(fnmatch(name.name, pattern) for pattern in _WRITTEN.get(str(name.parent), ()))


def _remove(path: Path) -> None:
    """Remove a checkpoint; if interrupted, the rest is named as an incomplete one."""
    with failures_named(path):
        if not path.name.endswith(PARTIAL):
            path = path.rename(path.with_name(path.name + PARTIAL))
        shutil.rmtree(path)


def clear(partial: Path) -> str:
    """Remove an incomplete checkpoint, or rename it if it holds a foreign file. Return a message."""
    if foreign := foreign_file(partial):
        return f"{partial}: holds a file that no save wrote ({foreign}): renamed {set_aside(partial).name}"
    _remove(partial)
    return f"{partial}: removed, an interrupted save"


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint to an unused name that is not a checkpoint's. Return the new path."""
    names = (path.name + store.DAMAGED, *(f"{path.name}{store.DAMAGED}-{number}" for number in range(2, 1000)))
    new = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    with failures_named(path):
        path.rename(new)
    return new


def prune(root: Path, seed: int, keep: int, newest: Path) -> list[str]:
    """Remove a run's checkpoints except the `keep` newest, which include `newest`. 0 keeps all.

    Returns a message for each checkpoint that was kept because it holds a foreign file.
    """
    older = [checkpoint.path for checkpoint in store.listing(root, seed) if checkpoint.path != newest]
    kept = []
    for path in older[keep - 1 :] if keep else ():
        if foreign := foreign_file(path):
            kept.append(f"{path}: not removed, it holds a file that no save wrote ({foreign}); move that away")
        else:
            _remove(path)
    return kept
