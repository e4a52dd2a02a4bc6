"""The training index: the order of a run's sequences, built once and kept for all runs that share it.

It lies in a directory whose name stands for all that it is made of: the data by its content, the sequence length, the
seed and the number of sequences. It is built in a directory of its own, which gets that name when all is written and
on disk; so what bears the name is whole, a builder that is killed leaves nothing that a run would read, and of several
that build the same index at once the first to end wins. index.json holds size and SHA-256 of each file, and a probe of
the data; both are held against what is there before a run takes the index.
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
from llama31.common.files import PARTIAL, failures_named, publish, sha256_of, sync_tree
from llama31.common.json_files import DamagedJson, parse_json, read_json, write_json
from llama31.data import token_file, token_manifest

CONTENTS = "index.json"
FORMAT = 1  # of the files; another one is another index
DAMAGED = ".damaged"  # appended to the name of an index whose files are not what was written
ABANDONED = 3600  # seconds after which nobody works on a half-built index any more
DEADLINE = 120.0  # seconds until what one node wrote must be seen on all others
LOOKS_PER_SECOND = 10
PROBES, PROBE_BYTES = 64, 65_536  # pieces of a file that are looked at, spread evenly; a smaller file is read whole


@dataclass(frozen=True)
class Index:
    """What an index is made of."""

    root: str
    """Directory for indices."""
    prefixes: tuple[str, ...]
    """Token files of the training parts that hold a whole sequence, without extension."""
    seq_length: int
    seed: int
    samples: int
    """Sequences, from the first one of training on."""

    @staticmethod
    def of(root: str | Path, prefixes: Iterable[str | Path], seq_length: int, seed: int, *, limit: int) -> "Index":
        """Return the index of `limit` sequences, or of all where the data has fewer.

        Parts shorter than a sequence are skipped: the index is the one of the other parts. Raises UserError for damaged
        data, and if no part holds a sequence.
        """
        held = {str(prefix): token_file.summary(prefix).sequences(seq_length) for prefix in prefixes}
        parts = tuple(prefix for prefix, sequences in held.items() if sequences)
        if not parts:
            raise UserError(f"SEQ_LENGTH={seq_length}: no part holds a sequence of that length: {', '.join(held)}")
        return Index(str(root), parts, seq_length, seed, min(limit, sum(held.values())))

    @cached_property
    def directory(self) -> Path:
        """Where it lies."""
        parts = [_content(prefix) for prefix in self.prefixes]
        key = json.dumps([FORMAT, parts, self.seq_length, self.seed, self.samples])
        return Path(self.root) / hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class IndexContents:
    """index.json."""

    files: dict[str, list[Any]]
    """Bytes and SHA-256 of each file, by its name."""
    probes: dict[str, str]
    """Probe of each token file, by its name."""
    of: dict[str, Any]
    """What the index is made of, for a person to read."""

    @property
    def bytes(self) -> int:
        """Size of the index."""
        return sum(size for size, _ in self.files.values())


def ensure(index: Index) -> tuple[IndexContents, bool]:
    """The index, built where it is not there or damaged, and whether it was built now.

    Raises UserError where it was built from other data than what is there now, or cannot be written.
    """
    directory = index.directory
    with failures_named(directory):
        if (contents := _read(directory)) is not None:
            if damage := _damage(directory, contents):
                aside = directory.with_name(f"{directory.name}{DAMAGED}-{secrets.token_hex(4)}")
                print(f"{directory}: {damage}: set aside as {aside.name}, and built anew", flush=True)
                with suppress(FileNotFoundError):  # another process was first
                    directory.rename(aside)
            else:
                _refuse_other_data(index, contents)
                return contents, False
        elif directory.exists() and _read(directory) is None:  # else another process was done in between
            raise UserError(f"{directory}: holds no {CONTENTS}, so it is no index; remove it")
    with building(directory) as partial:
        contents = fill(partial, index)
    return contents, True


def fill(directory: Path, index: Index) -> IndexContents:
    """Writes the index into an empty directory, and what it wrote into index.json.

    Raises UserError where the .idx of a part, which is what the index is made from, is not its manifest's.
    """
    from llama31.data import order  # imports Megatron

    for prefix in map(Path, index.prefixes):
        path, made = token_file.idx_path(prefix), token_manifest.read(prefix)
        if made and sha256_of(path) != made.idx_sha256:
            raise UserError(
                f"{path}: not what {token_manifest.manifest_path(prefix).name} describes; python3 -m llama31 verify "
                "shows what differs; the manifest of data that was not made here can be removed"
            )
    probes = {name: _probe(path) for name, path in _token_files(index.prefixes)}
    order.write(directory, index.prefixes, index.seq_length, index.seed, index.samples)
    files = {path.name: [path.stat().st_size, sha256_of(path)] for path in sorted(directory.iterdir())}
    write_json(directory / CONTENTS, IndexContents(files, probes, asdict(index)))
    return read_json(IndexContents, directory / CONTENTS)


def wait_for(directory: Path, deadline: float = DEADLINE) -> IndexContents:
    """Waits until an index that was published is seen here, whole; gives its contents.

    Raises UserError where that takes longer than `deadline` seconds.
    """
    end = time.monotonic() + deadline
    while True:
        with suppress(OSError):
            if (contents := _read(directory)) and not _missing(directory, contents):
                return contents
        if time.monotonic() > end:
            raise UserError(
                f"{directory}: the training index is not seen on {os.uname().nodename} {deadline:g} s after it was "
                "written; TMP_NPY_INDEX must name a directory that all nodes see"
            )
        time.sleep(1 / LOOKS_PER_SECOND)


@contextmanager
def building(directory: Path) -> Iterator[Path]:
    """A directory to build the index in, which becomes `directory` when the block ends without an exception.

    Otherwise it vanishes. If another process was first, its equal index stays. Raises UserError where nothing can be
    written.
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
            "TMP_NPY_INDEX names another directory"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(directory: Path) -> None:
    """Removes what builders of this index left that were killed."""
    for left in directory.parent.glob(f"{directory.name}{PARTIAL}-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left, ignore_errors=True)


def _content(prefix: str) -> list[str]:
    """A token file by name and content, as its manifest has it; without one by path, sizes and times of change."""
    if made := token_manifest.read(prefix):
        return [Path(prefix).name, made.bin_sha256, made.idx_sha256]
    found = [prefix]
    for path in (token_file.bin_path(Path(prefix)), token_file.idx_path(Path(prefix))):
        with failures_named(path):
            status = path.stat()
        found.append(f"{status.st_size} {status.st_mtime_ns}")
    return found


def _token_files(prefixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Names and paths of the .bin and .idx of all parts."""
    for prefix in map(Path, prefixes):
        for path in (token_file.bin_path(prefix), token_file.idx_path(prefix)):
            yield path.name, path


def _probe(path: Path) -> str:
    """SHA-256 of a file's size and of pieces of it."""
    with failures_named(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size}\n".encode())
        last = max(0, size - PROBE_BYTES)
        for start in sorted({last * piece // (PROBES - 1) for piece in range(PROBES)}):
            digest.update(os.pread(file.fileno(), PROBE_BYTES, start))
    return digest.hexdigest()


def _read(directory: Path) -> IndexContents | None:
    """Return what index.json says, None if it is missing. If it is damaged, return contents that match no file.

    Raises OSError if it cannot be read.
    """
    file = directory / CONTENTS
    try:
        return parse_json(IndexContents, file.read_bytes(), file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedJson:
        return IndexContents({CONTENTS: [-1, ""]}, {}, {})


def _missing(directory: Path, contents: IndexContents) -> list[str]:
    """Files of an index that are not there, or not of their size."""
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    return [name for name, (size, _) in contents.files.items() if sizes.get(name) != size]


def _damage(directory: Path, contents: IndexContents) -> str:
    """What is wrong with an index's files; empty where they are what was written."""
    damaged = _missing(directory, contents)
    damaged = damaged or [name for name, (_, sha256) in contents.files.items() if sha256_of(directory / name) != sha256]
    return f"{', '.join(damaged)}: not as written" if damaged else ""


def _refuse_other_data(index: Index, contents: IndexContents) -> None:
    """Raises UserError where the data is not what the index was built from, though its name says so."""
    for name, path in _token_files(index.prefixes):
        if contents.probes.get(name) != _probe(path):
            raise UserError(
                f"{path}: was written anew after {index.directory} was built from it, and its manifest or time of "
                "change stayed; python3 -m llama31 verify tells whether the data is right; if so, remove that directory"
            )
