"""A run's checkpoints on disk: names, manifests and integrity. Standard library only.

A checkpoint is a NeMo checkpoint: `weights` (Megatron's torch_dist format: weights and the state of optimizer,
schedule, loops and random generators) and `context` (configuration of trainer and model). It also holds the run's
MLPerf log and metrics up to that step, and the manifest, `checkpoint.json`: the run's identity, and size and SHA-256 of
all files. It is written under a name that ends in .partial, and renamed once all of it has been read back.
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
DAMAGED = ".damaged"  # suffix of the name of a checkpoint that cannot be used
TRANSIENT = (errno.EACCES, errno.EPERM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN)
"""Read errors that do not mean a damaged file: permissions, and an unreachable file server."""
_NAME = re.compile(r"checkpoint-seed-(?P<seed>\d+)-par-(?P<job>\d+)-(?P<step>\d+)-steps")


@dataclass(frozen=True)
class CheckpointManifest:
    """Contents of checkpoint.json."""

    seed: int
    job: int
    """Number of the job that saved it, counted from 1 along the run's chain of jobs."""
    step: int
    """Optimizer steps done."""
    consumed_samples: int
    """Training sequences seen."""
    identity: dict[str, Any]
    """Identity of the run; see `llama31.checkpoint.identity`."""
    departures: list[str]
    """Departures from the closed division's rules, of this job and all earlier ones."""
    outcome: dict[str, Any] | None
    """An `Outcome` as a dict, if the run reached its target at this step."""
    files: dict[str, tuple[int, str]]
    """Path within the checkpoint -> bytes, SHA-256."""
    run: str | None = None
    """Name of the run, which all its jobs share. None: unknown."""


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A checkpoint directory, as its name describes it. Sorts by job, then by step."""

    job: int
    step: int
    seed: int
    path: Path

    @classmethod
    def at(cls, path: Path, suffix: str = "") -> "Checkpoint | None":
        """Parse the name of a directory, which must end in `suffix`; return None if it is not a checkpoint's."""
        match = _NAME.fullmatch(path.name.removesuffix(suffix)) if path.name.endswith(suffix) else None
        return cls(int(match["job"]), int(match["step"]), int(match["seed"]), path) if match else None


def name(seed: int, job: int, step: int) -> str:
    """Return the name of the checkpoint that job number `job` of a run saves after `step` optimizer steps."""
    return f"checkpoint-seed-{seed}-par-{job}-{step}-steps"


def listing(root: Path, seed: int | None = None, suffix: str = "") -> list[Checkpoint]:
    """List the checkpoints in a directory by name, newest first, of all seeds or one; empty if it does not exist."""
    if not root.is_dir():
        return []
    with failures_named(root):
        found = [Checkpoint.at(path, suffix) for path in root.iterdir() if path.is_dir()]
    return sorted((c for c in found if c and seed in (None, c.seed)), reverse=True)


class DamagedCheckpoint(UserError):
    """A checkpoint is incomplete or differs from what was saved; fall back to the one before it."""


def read_manifest(path: Path) -> CheckpointManifest:
    """Return the manifest of a checkpoint. Raises DamagedCheckpoint, or UserError if reading failed transiently."""
    file = path / MANIFEST
    try:
        with _transient_named(file):
            manifest = parse_json(CheckpointManifest, file.read_bytes(), file)
        sizes = [(int(size), str(digest)) for size, digest in manifest.files.values()]
        if odd := [file for file in manifest.files if "\0" in file]:
            raise ValueError(f"{odd[0]!r} is no file name")
        if manifest.outcome is not None:
            from_json(Outcome, manifest.outcome)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path}: incomplete: it has no {MANIFEST}") from None
    except DamagedJson as error:
        raise DamagedCheckpoint(error.lines) from error
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, AttributeError) as error:
        raise DamagedCheckpoint(f"{file}: cannot be read: {error!r}") from error
    assert len(sizes) == len(manifest.files)
    return manifest


@contextmanager
def _transient_named(path: Path) -> Iterator[None]:
    """Turn transient read errors into a UserError of one line; others pass as OSError."""
    try:
        yield
    except OSError as error:
        if error.errno in TRANSIENT:
            raise UserError(f"{error.filename or path}: {error.strerror}") from error
        raise


def write_manifest(path: Path, manifest: CheckpointManifest) -> None:
    """Write the manifest of the checkpoint `path`, which makes it complete."""
    write_json(path / MANIFEST, manifest)


def files_of(path: Path) -> list[Path]:
    """Return all files of the checkpoint `path` except its manifest, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file() and file != path / MANIFEST)


def check_sizes(path: Path, manifest: CheckpointManifest) -> str:
    """Return the first file of another size than in the manifest, as text; "" if none. Raises as `check_hashes`."""
    for file, (size, _) in manifest.files.items():
        try:
            with _transient_named(path / file):
                found = (path / file).stat().st_size
        except OSError as error:
            return f"{file}: {error.strerror}"
        if found != size:
            return f"{file} has {found:,} bytes of {size:,}"
    return ""


def check_hashes(path: Path, manifest: CheckpointManifest, on_read: Callable[[int], None] = lambda _: None) -> str:
    """Compare a checkpoint's files with its manifest by SHA-256. Return the problem; empty if none.

    Calls `on_read` with the number of bytes of each chunk. Raises UserError if a file cannot be read for a transient
    reason.
    """
    if problem := check_sizes(path, manifest):
        return problem
    names = sorted(manifest.files, key=lambda file: -manifest.files[file][0])
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        try:
            with _transient_named(path):
                hashed = partial(size_and_sha256, on_read=on_read, from_disk=True)
                found = list(threads.map(hashed, (path / file for file in names)))
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
    changed = [file for file, now in zip(names, found, strict=True) if tuple(manifest.files[file]) != now]
    return f"{', '.join(changed[:3])} changed since it was saved (SHA-256)" if changed else ""


def lock(root: Path, seed: int | str, patience: float = 0) -> TextIO:
    """Lock the run's checkpoints against other jobs until the returned file is closed. Creates `root` if missing.

    Raises UserError if another job holds it for more than `patience` seconds.
    """
    refusal = f"CONTINUAL_CKPT={root}: the run of seed {seed} is in use by another job; wait until that ends"
    return lock_file(root / f".seed-{seed}.lock", refusal, patience=patience)
