"""A checkpoint that is being saved: it is read back, and gets its name once all of it is on disk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llama31.checkpoint import read_back as reading
from llama31.checkpoint import removal, store
from llama31.checkpoint.store import CheckpointManifest
from llama31.common.files import PARTIAL, sync, sync_tree
from llama31.common.files import publish as rename

Files = dict[str, tuple[int, str]]
"""Path within a checkpoint -> bytes, SHA-256."""


@dataclass(frozen=True)
class NewCheckpoint:
    """Where it goes and what describes it."""

    path: Path
    manifest: CheckpointManifest
    """Without files."""
    keep: int
    """Checkpoints to keep; 0: all."""

    @property
    def partial(self) -> Path:
        """Directory until it is complete."""
        return self.path.with_name(self.path.name + PARTIAL)


def names(partial: Path) -> list[str]:
    """Return the files' paths within a checkpoint."""
    return [str(file.relative_to(partial)) for file in store.files_of(partial)]


def read_back(
    partial: Path, files: Iterable[str], blobs: Mapping[str, Sequence[tuple[int, int]]] | None = None
) -> Files:
    """Flush files to disk and read them back, with offset and length of the tensors in each.

    Raises UserError if a tensor is not what was written.
    """
    found = {}
    for name in files:
        sync(partial / name)
        found[name] = reading.size_and_sha256(partial / name, (blobs or {}).get(name, ()))
    return found


def publish(new: NewCheckpoint, files: Files) -> list[str]:
    """Give a verified checkpoint its manifest and its name, and remove older ones.

    Returns a line for each older one that could not be removed.
    """
    sync_tree(new.partial, directories_only=True)
    store.write_manifest(new.partial, replace(new.manifest, files=files))
    rename(new.partial, new.path)
    return removal.prune(new.path.parent, new.manifest.seed, new.keep, new.path)


def total(files: Files) -> int:
    """Return the bytes of a checkpoint's files."""
    return sum(size for size, _ in files.values())
