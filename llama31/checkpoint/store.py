"""Checkpoints on disk: their names, what makes one whole, and which are kept. Standard library alone.

A checkpoint is a directory of NeMo's: `weights` (Megatron's torch_dist format: weights and the state of optimizer,
schedule, loops and random generators) and `context` (NeMo's record of the trainer and the model). Beside them lie the
run's MLPerf log and metrics up to that step, and `checkpoint.json`, the manifest: what run it is of, and size and
SHA-256 of all files. It is written under a name that ends in .partial, and gets its own when all of it was read back.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from llama31.common.errors import UserError
from llama31.common.files import failures_named, size_and_sha256
from llama31.common.json_files import DamagedJson, from_json, parse_json, write_json
from llama31.common.locks import lock_file
from llama31.run_dir.events import Outcome

MANIFEST = "checkpoint.json"
DAMAGED = ".damaged"  # appended to the name of a checkpoint that cannot be used
PASSING = (errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)
"""Errors of reading that say nothing of the file: rights, and a file server that is away."""
_NAME = re.compile(r"checkpoint-seed-(?P<seed>\d+)-par-(?P<job>\d+)-(?P<step>\d+)-steps")


@dataclass(frozen=True)
class CheckpointManifest:
    """What a checkpoint is of."""

    seed: int
    job: int
    """Number of the job that saved it, in the chain of jobs that makes up the run; the first is 1."""
    step: int
    """Optimizer steps done."""
    consumed_samples: int
    """Training sequences seen."""
    identity: dict[str, Any]
    """What the run is of; see `llama31.checkpoint.identity`."""
    departures: list[str]
    """Departures from the closed division's rules of this job and all before it."""
    outcome: dict[str, Any] | None
    """How the run ended, if it reached its target with this step (an `Outcome` as a dict)."""
    files: dict[str, tuple[int, str]]
    """Path within the checkpoint -> bytes, SHA-256."""
    run: str | None = None
    """Name of the run, which all its jobs share. None: not known."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint's directory by what its name says; in the order of the chain of jobs."""

    job: int
    step: int
    seed: int
    path: Path

    @classmethod
    def at(cls, path: Path, suffix: str = "") -> "Checkpoint | None":
        """The checkpoint that a directory is by its name, which may end in `suffix`; None if it is none."""
        match = _NAME.fullmatch(path.name.removesuffix(suffix)) if path.name.endswith(suffix) else None
        return cls(int(match["job"]), int(match["step"]), int(match["seed"]), path) if match else None


def name(seed: int, job: int, step: int) -> str:
    """Name of the checkpoint that a run of this seed saves in its `job`-th job after `step` optimizer steps."""
    return f"checkpoint-seed-{seed}-par-{job}-{step}-steps"


def listing(root: Path, seed: int | None = None, suffix: str = "") -> list[Checkpoint]:
    """Checkpoints in a directory by their names, of one seed or of all, the newest first; none if it is not there."""
    if not root.is_dir():
        return []
    with failures_named(root):
        found = [Checkpoint.at(path, suffix) for path in root.iterdir() if path.is_dir()]
    return sorted((c for c in found if c and seed in (None, c.seed)), reverse=True)


class DamagedCheckpoint(UserError):
    """A checkpoint is incomplete, or other than it was saved: the one before it is to be used."""


def read_manifest(path: Path) -> CheckpointManifest:
    """Manifest of the checkpoint in a directory.

    Raises Damaged where there is none that can be understood, UserError where it cannot be read.
    """
    file = path / MANIFEST
    try:
        with _unreadable_named(file):
            manifest = parse_json(CheckpointManifest, file.read_bytes(), file)
        sizes = [(int(size), str(digest)) for size, digest in manifest.files.values()]
        if manifest.outcome is not None:
            from_json(Outcome, manifest.outcome)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: incomplete, it has no {MANIFEST}") from None
    except DamagedJson as error:
        raise DamagedCheckpoint(error.lines) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"{file}: cannot be read: {error!r}") from error
    assert len(sizes) == len(manifest.files)
    return manifest


@contextmanager
def _unreadable_named(path: Path) -> Iterator[None]:
    """Turns what keeps a good file from being read into a UserError of one line; it may be gone tomorrow."""
    try:
        yield
    except OSError as error:
        if error.errno in PASSING:
            raise UserError(f"{error.filename or path}: {error.strerror}") from error
        raise


def write_manifest(path: Path, manifest: CheckpointManifest) -> None:
    """Writes the manifest of the checkpoint in a directory, which makes it complete."""
    write_json(path / MANIFEST, manifest)


def files_of(path: Path) -> list[Path]:
    """All files of the checkpoint in a directory but its manifest, in an order that is always the same."""
    return sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST)


def damage(path: Path, manifest: CheckpointManifest) -> str:
    """What is wrong with a checkpoint as far as a look at its files' sizes tells; empty if nothing is."""
    for file, (size, _) in manifest.files.items():
        try:
            with _unreadable_named(path / file):
                there = (path / file).stat().st_size
        except OSError as error:
            return f"{file}: {error.strerror}"
        if there != size:
            return f"{file} has {there:,} bytes of {size:,}"
    return ""


def damage_inside(path: Path, manifest: CheckpointManifest, told: Callable[[int], None] = lambda _: None) -> str:
    """As `damage`, by reading all of it: which files are not those that were saved; empty if none.

    Both raise UserError where a file cannot be read for a reason that says nothing of it.
    """
    if wrong := damage(path, manifest):
        return wrong
    names = sorted(manifest.files, key=lambda file: -manifest.files[file][0])
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        try:
            with _unreadable_named(path):
                hashed = partial(size_and_sha256, on_read=told, from_disk=True)
                found = list(threads.map(hashed, (path / file for file in names)))
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
    changed = [file for file, now in zip(names, found, strict=True) if tuple(manifest.files[file]) != now]
    return f"{', '.join(changed[:3])} changed since it was saved (SHA-256)" if changed else ""


def lock(root: Path, seed: int | str, patience: float = 0) -> TextIO:
    """Return an open file that keeps other jobs of the run from saving until it is closed. Creates `root` if missing.

    Raises UserError if another job holds it for more than `patience` seconds.
    """
    refusal = f"CONTINUAL_CKPT={root}: the run of seed {seed} goes on there, in another job"
    return lock_file(root / f".seed-{seed}.lock", refusal, patience=patience)
