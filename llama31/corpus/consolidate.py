"""Join C4's shards into one file for each training part, and write the customised validation set.

Compressed shards are concatenated: a gzip file may have several members, so nothing is compressed again. Each shard is
read once: it is decompressed while it is copied, to check that it is complete.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from isal import igzip

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named
from llama31.common.locks import only_run_in
from llama31.common.parallel import run_all
from llama31.common.progress import Progress
from llama31.corpus import documents
from llama31.corpus.compressed_files import DAMAGED, CompressedStream, suffix_problem
from llama31.corpus.parts import part_shards

VALIDATION_FILE = "c4-validation.en.json.gz"  # all validation shards
BLOCK_BYTES = 4 << 20
PLAIN = "not compressed"
COMPRESS = "utils/parallel_compress_json_to_gz.sh"

OnProgress = Callable[[int], object]
"""Callback for progress: receives the number of bytes that were copied."""


def consolidate(c4_dir: Path, merged_dir: Path, parts: Sequence[int], sample: int, jobs: int) -> str:
    """Write the files of `parts`, of all validation shards and of their first `sample` documents, `jobs` at a time.

    Files that are up to date are skipped. Returns a summary line. Raises UserError with a line for each file that
    fails, which lists all its missing and damaged shards; if a shard is missing, nothing is written.
    """
    files = [(validation_shards(c4_dir), merged_dir / VALIDATION_FILE)]
    files += [(train_shards(c4_dir, part), _part_path(merged_dir, part)) for part in parts]
    _require_shards(shards for shards, _ in files)
    with failures_named(merged_dir):
        merged_dir.mkdir(parents=True, exist_ok=True)
    total = sum(_size(shards) for shards, target in files if not _is_joined(shards, target))
    with only_run_in(merged_dir), Progress("consolidate", total) as progress:

        def write(part: int | None) -> Path:
            if part is None:
                return merge_validation(c4_dir, merged_dir, sample, progress.add)
            return merge_part(c4_dir, merged_dir, part, on_progress=progress.add)

        run_all(write, [None, *parts], jobs)
        part_names = "".join(f"part {part}, " for part in parts)
        return f"{merged_dir}: {part_names}validation and its first {sample:,} documents; {progress.figures()}"


def merge_part(
    c4_dir: str | Path,
    merged_dir: str | Path,
    part: int,
    shards: Iterable[int] | None = None,
    on_progress: OnProgress = bool,
) -> Path:
    """Join a part's training shards, all 128 or those in `shards`; return MERGED_DIR/c4-train.en_<part>.json.gz.

    Does nothing if the file is up to date. Raises UserError listing all shards that are missing or damaged.
    """
    return _join(train_shards(Path(c4_dir), part, shards), _part_path(Path(merged_dir), part), on_progress)


def merge_validation(
    c4_dir: str | Path, merged_dir: str | Path, sample: int = rules.VALIDATION_DOCUMENTS, on_progress: OnProgress = bool
) -> Path:
    """Join the 8 validation shards, and write their first `sample` documents as the customised validation set.

    Returns MERGED_DIR/c4-validation-<sample>-samples.en.json.gz. Does nothing if both files are up to date. Raises
    UserError listing all shards that are missing or damaged, or if they have fewer than `sample` documents.
    """
    merged = _join(validation_shards(Path(c4_dir)), Path(merged_dir) / VALIDATION_FILE, on_progress)
    target = Path(merged_dir) / f"{rules.validation_name(sample)}.json.gz"
    if not _is_up_to_date(target, [merged]):
        _write_head(merged, target, sample)
    return target


def train_shards(c4_dir: Path, part: int, shards: Iterable[int] | None = None) -> list[Path]:
    """Return the files of a part's training shards, in order."""
    return [c4_dir / rules.train_shard_name(shard) for shard in (part_shards(part) if shards is None else shards)]


def validation_shards(c4_dir: Path) -> list[Path]:
    """Return the files of the validation shards, in order."""
    return [c4_dir / rules.validation_shard_name(shard) for shard in range(rules.VALIDATION_SHARDS)]


def _part_path(merged_dir: Path, part: int) -> Path:
    return merged_dir / f"{rules.train_part_name(part)}.json.gz"


def require_numbering(shards: Sequence[Path]) -> None:
    """Raise UserError if the directory has shards, but only of a corpus split into another number of shards.

    C4's variants and copies of C4 made by other tools are split differently; the benchmark's parts and validation set
    are defined by the numbers of the original's shards.
    """
    directory, wanted = shards[0].parent, shards[0].name
    kind, _, count = re.split(r"\.|-of-", wanted)[:3]  # c4-train, 00768, 01024
    found = sorted(path.name for path in directory.glob(f"{kind}.*-of-*.json*"))
    if found and not any(f"-of-{count}." in name for name in found):
        raise UserError(f"{directory}: shards are numbered differently ({found[0]}); expected {wanted}")


def _require_shards(files: Iterable[Sequence[Path]]) -> None:
    files = list(files)
    for shards in files:
        require_numbering(shards)
    unusable = [f"{path} ({problem})" for shards in files for path in shards if (problem := _missing_reason(path))]
    if unusable:
        advice = f"; compress .json files with {COMPRESS}" if any(PLAIN in line for line in unusable) else ""
        raise UserError(f"{len(unusable)} shards cannot be used: {', '.join(unusable)}{advice}")


def _missing_reason(path: Path) -> str:
    """Return why a file is not available; empty if it exists."""
    try:
        if path.is_file():
            return ""
        return PLAIN if path.with_suffix("").is_file() else "missing"
    except OSError as error:  # no permission to search the directory
        return str(error.strerror)


def _join(shards: Sequence[Path], target: Path, on_progress: OnProgress) -> Path:
    _require_shards([shards])
    if _is_joined(shards, target):
        return target
    with atomic_writer(target) as file:
        damaged = [f"{shard} ({damage})" for shard in shards if (damage := _append(shard, file, on_progress))]
        if damaged:
            raise UserError(f"{target}: {len(damaged)} of {len(shards)} shards cannot be used: {', '.join(damaged)}")
    return target


def _size(shards: Iterable[Path]) -> int:
    return sum(shard.stat().st_size for shard in shards)


def _is_joined(shards: Sequence[Path], target: Path) -> bool:
    return _is_up_to_date(target, shards) and target.stat().st_size == _size(shards)


class _Unreadable(Exception):
    """Raised if a shard cannot be read; the message is the reason."""


class _CopyingReader:
    """A source file that is copied to a target as it is read.

    `read` raises _Unreadable if the source fails, OSError if the target does.
    """

    def __init__(self, source: BinaryIO, target: BinaryIO, on_progress: OnProgress):
        self._source = source
        self._target = target
        self._on_progress = on_progress

    def read(self, count: int) -> bytes:
        try:
            data = self._source.read(count)
        except OSError as error:
            raise _Unreadable(error.strerror) from error
        self._target.write(data)
        self._on_progress(len(data))
        return data

    def tell(self) -> int:
        return self._source.tell()


def _append(shard: Path, target: BinaryIO, on_progress: OnProgress) -> str:
    """Append a shard to `target`; return what is wrong with the shard, empty if it is complete."""
    try:
        source = open(shard, "rb")  # noqa: SIM115 - so that only failures to open it are caught here
    except OSError as error:
        return str(error.strerror)
    last_block = b""
    with source:
        gunzip = CompressedStream(_CopyingReader(source, target, on_progress))
        try:
            while data := gunzip.read(BLOCK_BYTES):
                last_block = data
        except EOFError:
            return "truncated" if source.tell() else "empty"
        except DAMAGED as error:
            return suffix_problem(shard) or f"damaged: {error}"
        except _Unreadable as error:
            return str(error)
    if not last_block:
        return "empty"
    return "" if last_block.endswith(b"\n") else "no line end after its last line"  # the next shard would extend it


def _is_up_to_date(target: Path, sources: Sequence[Path]) -> bool:
    """Return whether `target` exists and is not older than any of `sources`."""
    with failures_named(target):
        return target.is_file() and all(target.stat().st_mtime_ns >= source.stat().st_mtime_ns for source in sources)


def _write_head(source: Path, target: Path, count: int) -> None:
    found = 0
    with (
        atomic_writer(target) as file,
        igzip.IGzipFile(filename="", mode="wb", compresslevel=2, fileobj=file, mtime=0) as compressed,
    ):
        for line in islice((line for block in documents.blocks(source) for line in block.lines), count):
            compressed.write(line + b"\n")
            found += 1
        if found < count:
            raise UserError(f"{source}: {found:,} documents, {target.name} needs {count:,}")
