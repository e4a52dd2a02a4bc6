"""Copies of a run's token files on a node's own disk (COPY_DATA_TO): made before the run, once for each node.

A file is copied under a temporary name, read back from the disk, and gets its final name only if its SHA-256 is that in
the manifest (of a token file without a manifest, that of the source as it was read). A copy is used again if size, time
of modification, a hash of 64 of its pieces and the manifest are the source's. A lock in the directory makes a second
process on the same node wait for the first, and find its copies.
"""

import errno
import hashlib
import math
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from llama31.common.errors import UserError
from llama31.common.files import (
    HASH_BYTES,
    PARTIAL,
    failures_named,
    free_bytes,
    nearest_existing,
    probe,
    publish,
    size_and_sha256,
    sync_open,
)
from llama31.common.locks import is_locked, lock_file
from llama31.common.parallel import run_all
from llama31.common.progress import Progress
from llama31.common.units import size
from llama31.config import paths
from llama31.data import token_manifest
from llama31.data.token_file import bin_path, idx_path
from llama31.settings import Settings

LOCK = ".copying"
AT_ONCE = 4  # files
REPORT_SECONDS = 15.0  # between lines of progress


@dataclass(frozen=True)
class _Copy:
    """A file of the data and its copy."""

    source: Path
    target: Path
    sha256: str | None
    """What the manifest says; None without a manifest, and for the manifest itself."""

    @property
    def bytes(self) -> int:
        """Size of the source. Raises UserError if it cannot be examined."""
        with failures_named(self.source):
            return self.source.stat().st_size

    def is_there(self) -> bool:
        """Return whether the copy exists and is equal as far as a look at sizes, times and pieces can tell."""
        try:
            there, here = self.source.stat(), self.target.stat()
        except OSError:  # missing; if the source is, `bytes` says so
            return False
        # Whole seconds, since some file systems store no fractions.
        is_alike = (here.st_size, int(here.st_mtime)) == (there.st_size, int(there.st_mtime))
        return is_alike and probe(self.source) == probe(self.target)


def ensure(settings: Settings) -> None:
    """Copy the missing or changed token files of a run to COPY_DATA_TO. Prints what it does.

    Raises UserError if a source is damaged or the copies cannot be written; what is complete then stays.
    """
    root, node = Path(settings.copy_data_to), os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    with failures_named(root):
        root.mkdir(parents=True, exist_ok=True)
        if is_locked(root / LOCK):
            print(f"{node}: waiting for another process that copies to {root}", flush=True)
        with lock_file(root / LOCK, patience=math.inf):
            _remove_stale_manifests(settings)
            left = _missing(settings)
            if not left:
                print(f"{node}: COPY_DATA_TO={root}: the copies of an earlier run are used", flush=True)
                return
            _remove_partials(left)
            _require_room(root, left)
            _copy_all(root, node, left)


def total_bytes(settings: Settings) -> int:
    """Return the bytes that all copies take on a node. Raises UserError if a source cannot be examined."""
    return sum(copy.bytes for copy in _copies(settings))


def bytes_left(settings: Settings) -> int:
    """Return the bytes that are still to be copied on this node. Raises UserError if a source cannot be examined."""
    return sum(copy.bytes for copy in _missing(settings))


def problems(settings: Settings) -> Iterator[str]:
    """Yield a line if the copies cannot be made on this machine: no permission, or too little room."""
    root = Path(settings.copy_data_to)
    try:
        _require_room(root, _missing(settings))
    except UserError as error:
        yield from error.lines


def _copies(settings: Settings) -> list[_Copy]:
    """Return all files to copy; a manifest comes after its files."""
    found = []
    root = Path(settings.copy_data_to)
    for prefix in (*paths.train_prefixes(settings), paths.validation_prefix(settings)):
        manifest = token_manifest.read(prefix)
        sources = [
            (bin_path(prefix), manifest.bin_sha256 if manifest else None),
            (idx_path(prefix), manifest.idx_sha256 if manifest else None),
        ]
        if manifest:
            sources.append((token_manifest.manifest_path(prefix), None))
        found += [_Copy(source, root / source.name, sha256) for source, sha256 in sources]
    return found


def _missing(settings: Settings) -> list[_Copy]:
    return [copy for copy in _copies(settings) if not copy.is_there()]


def _remove_stale_manifests(settings: Settings) -> None:
    """Remove the copies of manifests that the sources no longer have."""
    for prefix in (*paths.train_prefixes(settings), paths.validation_prefix(settings)):
        if not (source := token_manifest.manifest_path(prefix)).exists():
            (Path(settings.copy_data_to) / source.name).unlink(missing_ok=True)


def _remove_partials(copies: list[_Copy]) -> None:
    """Remove what killed processes left; only the holder of the lock writes such files."""
    for copy in copies:
        for left in copy.target.parent.glob(f"{copy.target.name}{PARTIAL}-*"):
            left.unlink(missing_ok=True)


def _require_room(root: Path, copies: list[_Copy]) -> None:
    """Raise UserError if the disk of `root` is too full for the copies, or not writable."""
    try:
        existing = nearest_existing(root)
        free = free_bytes(existing)
    except OSError as error:
        raise UserError(f"COPY_DATA_TO={root}: {error.strerror}") from error
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"COPY_DATA_TO={root}: not writable; choose another directory")
    needed = sum(copy.bytes for copy in copies)
    if needed > free:
        raise UserError(
            f"COPY_DATA_TO={root}: the token files to copy take {size(needed)}, the disk has {size(free)} free; choose "
            "another directory, or leave it empty to read them from PREPROCESSED_PATH"
        )


def _copy_all(root: Path, node: str, copies: list[_Copy]) -> None:
    """Copy files, the large ones at the same time, and print rate and time left."""
    needed, stop = sum(copy.bytes for copy in copies), Event()
    every = None if sys.stderr.isatty() else REPORT_SECONDS
    label = f"{node}: copying {size(needed)} to {root}"
    # Each byte counts twice: when it is copied, and when it is read back.
    with Progress(label, 2 * needed, every=every) as progress:
        manifests = [copy for copy in copies if copy.target.suffix == ".json"]
        for group in ([copy for copy in copies if copy not in manifests], manifests):
            run_all(lambda copy: _copy(copy, progress, stop), group, AT_ONCE, stop)
        print(f"{node}: copied and verified {size(needed)} in COPY_DATA_TO={root}: {progress.figures()}", flush=True)


def _copy(copy: _Copy, progress: Progress, stop: Event) -> None:
    """Copy a file. Raises UserError if it is not what the manifest says, or cannot be read or written."""
    partial = copy.target.with_name(f"{copy.target.name}{PARTIAL}-{secrets.token_hex(4)}")
    try:
        with failures_named(copy.target):
            read = _write(copy, partial, progress, stop)
            if read is None:
                return
            if copy.sha256 not in (None, read):
                raise UserError(
                    f"{copy.source}: its SHA-256 is not the manifest's; python3 -m llama31 verify shows the differences"
                )
            if size_and_sha256(partial, lambda count: _count(progress, count, stop), from_disk=True)[1] != read:
                raise UserError(f"{copy.target}: the disk does not return what was written to it; use another disk")
            status = copy.source.stat()
            os.utime(partial, ns=(status.st_atime_ns, status.st_mtime_ns))
            publish(partial, copy.target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _count(progress: Progress, count: int, stop: Event) -> None:
    """Count bytes that were read back. Raises OSError if the copy is to stop."""
    progress.add(count)
    if stop.is_set():
        raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))


def _write(copy: _Copy, partial: Path, progress: Progress, stop: Event) -> str | None:
    """Write a copy to `partial`. Return the SHA-256 of what was read; None if it was stopped."""
    digest = hashlib.sha256()
    with open(copy.source, "rb", buffering=0) as source, open(partial, "xb") as file:
        while chunk := source.read(HASH_BYTES):
            if stop.is_set():
                return None
            digest.update(chunk)
            file.write(chunk)
            progress.add(len(chunk))
        sync_open(file)
    return digest.hexdigest()
