"""Training index: the order of a run's sequences, built once and cached for all runs that share it.

The name of its directory is a hash of its inputs: content of the data, sequence length, seed and number of sequences.
An index is built in a temporary directory, which is renamed once everything is on disk: an index with its final name is
complete, a killed builder leaves nothing that a run would read, and of concurrent builders the first one wins.
index.json records size and SHA-256 of each file and a probe of the data; both are checked before a run uses the index.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named, probe, publish, sha256_of, sync_tree
from llama31.common.json_files import DamagedJson, parse_json, read_json, write_json
from llama31.data import token_file, token_manifest

CONTENTS = "index.json"
FORMAT = 1  # version of the file format, part of the hash
DAMAGED = ".damaged"  # suffix of the name of a damaged index
ABANDONED = 3600  # seconds after which a half-built index is deleted
DEADLINE = 120.0  # seconds for an index to become visible on all nodes
POLLS_PER_SECOND = 10


@dataclass(frozen=True)
class Index:
    """Inputs of an index."""

    root: str
    """Directory of all indices."""
    prefixes: tuple[str, ...]
    """Token files of the training parts with at least one whole sequence, without extension."""
    seq_length: int
    seed: int
    samples: int
    """Number of sequences, from the start of training."""

    @staticmethod
    def of(root: str | Path, prefixes: Iterable[str | Path], seq_length: int, seed: int, *, limit: int) -> "Index":
        """Return the index of `limit` sequences, or of all if the data has fewer.

        Parts shorter than a sequence are skipped. Raises UserError for damaged data, and if no part holds a sequence.
        """
        sizes = {str(prefix): token_file.summary(prefix).sequences(seq_length) for prefix in prefixes}
        parts = tuple(prefix for prefix, sequences in sizes.items() if sequences)
        if not parts:
            raise UserError(f"SEQ_LENGTH={seq_length}: no part holds a sequence of that length: {', '.join(sizes)}")
        return Index(str(root), parts, seq_length, seed, min(limit, sum(sizes.values())))

    @cached_property
    def directory(self) -> Path:
        """The directory of this index."""
        parts = [_content_key(prefix) for prefix in self.prefixes]
        key = json.dumps([FORMAT, parts, self.seq_length, self.seed, self.samples])
        return Path(self.root) / hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class IndexContents:
    """Contents of index.json."""

    files: dict[str, list[Any]]
    """Bytes and SHA-256 of each file, by name."""
    probes: dict[str, str]
    """Probe of each token file, by name."""
    of: dict[str, Any]
    """The `Index`, for information only."""

    @property
    def bytes(self) -> int:
        """Size of the index, bytes."""
        return sum(size for size, _ in self.files.values())


NEVER = IndexContents({CONTENTS: [-1, ""]}, {}, {})
"""Contents that no directory has."""


def ensure(index: Index) -> tuple[IndexContents, bool]:
    """Build the index if it is missing or damaged. Return its contents and whether it was built.

    Raises UserError if the data has changed since the index was built, or if it cannot be written.
    """
    directory = index.directory
    with failures_named(directory):
        if (contents := _read(directory)) is not None:
            if is_intact(directory, contents):
                _refuse_other_data(index, contents)
                return contents, False
        elif directory.exists() and _read(directory) is None:  # else another process has just built it
            raise UserError(f"{directory}: not an index: {CONTENTS} is missing; remove it")
    with building(directory) as partial:
        contents = fill(partial, index)
    return contents, True


def is_intact(directory: Path, contents: IndexContents) -> bool:
    """Return whether an index's files are as written; rename its directory if they are not. Raises OSError."""
    if not (found := damage(directory, contents)):
        return True
    renamed = directory.with_name(f"{directory.name}{DAMAGED}-{secrets.token_hex(4)}")
    print(f"{directory}: {found}: renamed {renamed.name}; building it again", flush=True)
    with suppress(FileNotFoundError):  # another process was first
        directory.rename(renamed)
    return False


def fill(directory: Path, index: Index) -> IndexContents:
    """Write an index to an empty directory. Raises UserError if the .idx of a part does not match its manifest."""
    from llama31.data import order  # imports Megatron

    for prefix in map(Path, index.prefixes):
        path, manifest = token_file.idx_path(prefix), token_manifest.read(prefix)
        if manifest and sha256_of(path) != manifest.idx_sha256:
            raise UserError(
                f"{path}: not what {token_manifest.manifest_path(prefix).name} describes; python3 -m llama31 verify "
                "shows the differences; remove the manifest if the data was not made here"
            )
    probes = {name: probe(path) for name, path in _token_files(index.prefixes)}
    order.write(directory, index.prefixes, index.seq_length, index.seed, index.samples)
    files = {path.name: [path.stat().st_size, sha256_of(path)] for path in sorted(directory.iterdir())}
    write_json(directory / CONTENTS, IndexContents(files, probes, asdict(index)))
    return read_json(IndexContents, directory / CONTENTS)


def wait_for(directory: Path, deadline: float = DEADLINE) -> IndexContents:
    """Return the contents of an index once all of it is visible here. Raises UserError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        with suppress(OSError):
            if (contents := _read(directory)) and not _missing(directory, contents):
                return contents
        if time.monotonic() > end:
            raise UserError(
                f"{directory}: the training index is not visible on {os.uname().nodename} {deadline:g} s after it was "
                "written; TMP_NPY_INDEX must be a directory that all nodes share"
            )
        time.sleep(1 / POLLS_PER_SECOND)


@contextmanager
def building(directory: Path) -> Iterator[Path]:
    """Yield a temporary directory that is renamed to `directory` if the block succeeds and removed if it fails.

    If another process was first, its index, which is equal, is kept. Raises UserError if nothing can be written.
    """
    partial = directory.with_name(f"{directory.name}{PARTIAL}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        _remove_abandoned(directory)
        yield partial
        sync_tree(partial)
        try:
            publish(partial, directory)
        except OSError:
            if not directory.is_dir():
                raise
    except OSError as error:
        raise UserError(
            f"{directory.parent}: the training index cannot be written: {error.strerror or error}; "
            "set TMP_NPY_INDEX to another directory"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(directory: Path) -> None:
    """Remove the temporary directories of killed builders of this index."""
    for left in directory.parent.glob(f"{directory.name}{PARTIAL}-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _content_key(prefix: str) -> list[str]:
    """Return name and hashes of a token file by its manifest; without one, its path, sizes and modification times."""
    if manifest := token_manifest.read(prefix):
        return [Path(prefix).name, manifest.bin_sha256, manifest.idx_sha256]
    key = [prefix]
    for path in (token_file.bin_path(Path(prefix)), token_file.idx_path(Path(prefix))):
        with failures_named(path):
            status = path.stat()
        key.append(f"{status.st_size} {status.st_mtime_ns}")
    return key


def _token_files(prefixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Yield name and path of the .bin and .idx of all parts."""
    for prefix in map(Path, prefixes):
        for path in (token_file.bin_path(prefix), token_file.idx_path(prefix)):
            yield path.name, path


def _read(directory: Path) -> IndexContents | None:
    """Return index.json: None if missing, contents that never match if damaged. Raises OSError if it cannot be read."""
    file = directory / CONTENTS
    try:
        found = parse_json(IndexContents, file.read_bytes(), file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedJson:
        return NEVER
    return found if all(_is_entry(*entry) for entry in found.files.items()) else NEVER


def _is_entry(name: str, entry: Any) -> bool:
    """Return whether an entry of index.json is a file within the directory, with its bytes and SHA-256."""
    if not isinstance(entry, list) or [type(part) for part in entry] != [int, str]:
        return False
    return Path(name).name == name and entry[0] >= 0


def _missing(directory: Path, contents: IndexContents) -> list[str]:
    """Return the files of an index that are missing or of another size."""
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    return [name for name, (size, _) in contents.files.items() if sizes.get(name) != size]


def damage(directory: Path, contents: IndexContents) -> str:
    """Return what is wrong with an index's files; empty if they are intact."""
    damaged = _missing(directory, contents)
    damaged = damaged or [name for name, (_, sha256) in contents.files.items() if sha256_of(directory / name) != sha256]
    return f"{', '.join(damaged)}: not as written" if damaged else ""


def _refuse_other_data(index: Index, contents: IndexContents) -> None:
    """Raise UserError if the data has changed since the index was built, although the key has not."""
    for name, path in _token_files(index.prefixes):
        if contents.probes.get(name) != probe(path):
            raise UserError(
                f"{path}: changed after {index.directory} was built from it, but its manifest or modification "
                "time did not; check it with python3 -m llama31 verify; if it is right, remove that directory"
            )
