"""C4's shards -> one file for each training part, and the customised validation set.

Compressed shards are joined as they are: a gzip file may have several members, so nothing is compressed again.
"""

import gzip
import shutil
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from llama31 import rules
from llama31.corpus import documents
from llama31.corpus.files import atomic_writer, failures_named
from llama31.errors import UserError

VALIDATION_FILE = "c4-validation.en.json.gz"  # all validation shards
GZIP_MAGIC = b"\x1f\x8b"
COPY_BYTES = 16 << 20


def part_shards(part: int) -> range:
    """Training shards of merged part 0..7."""
    return range(part * rules.SHARDS_PER_PART, (part + 1) * rules.SHARDS_PER_PART)


def merge_part(c4_dir: str | Path, merged_dir: str | Path, part: int, shards: Iterable[int] | None = None) -> Path:
    """Join a part's training shards, all 128 unless `shards` names fewer, as MERGED_DIR/c4-train.en_<part>.json.gz.

    Does nothing where that is done already. Raises UserError listing all shards that are missing or no gzip files.
    """
    names = [rules.train_shard_name(shard) for shard in (part_shards(part) if shards is None else shards)]
    return _join([Path(c4_dir) / name for name in names], Path(merged_dir) / f"{rules.train_part_name(part)}.json.gz")


def merge_validation(c4_dir: str | Path, merged_dir: str | Path, sample: int = rules.VALIDATION_DOCUMENTS) -> Path:
    """Join the 8 validation shards, and write their first `sample` documents as the customised validation set.

    Returns MERGED_DIR/c4-validation-<sample>-samples.en.json.gz. Does nothing where that is done already. Raises
    UserError listing all shards that are missing or no gzip files, or where they hold fewer documents.
    """
    names = [rules.validation_shard_name(shard) for shard in range(rules.VALIDATION_SHARDS)]
    merged = _join([Path(c4_dir) / name for name in names], Path(merged_dir) / VALIDATION_FILE)
    target = Path(merged_dir) / f"{rules.validation_name(sample)}.json.gz"
    if not _newer(target, [merged]):
        _write_head(merged, target, sample)
    return target


def _join(sources: Sequence[Path], target: Path) -> Path:
    problems = [problem for source in sources if (problem := _problem(source))]
    if problems:
        unusable = f"{len(problems)} of the {len(sources)} shards of {target.name} cannot be used"
        raise UserError(f"{unusable}: {', '.join(problems)}")
    whole = sum(source.stat().st_size for source in sources)
    if _newer(target, sources) and target.stat().st_size == whole:
        return target
    with atomic_writer(target) as file:
        for source in sources:
            with open(source, "rb") as shard:
                shutil.copyfileobj(shard, file, COPY_BYTES)
    return target


def _problem(source: Path) -> str:
    """What is wrong with a shard; empty where it looks whole."""
    if not source.is_file():
        return f"{source} (missing)"
    with failures_named(source), open(source, "rb") as file:
        return "" if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC else f"{source} (not gzip)"


def _newer(target: Path, sources: Sequence[Path]) -> bool:
    """Whether `target` is there and was written after all of `sources`."""
    return target.is_file() and all(target.stat().st_mtime_ns >= source.stat().st_mtime_ns for source in sources)


def _write_head(source: Path, target: Path, count: int) -> None:
    found = 0
    with atomic_writer(target) as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
        for line in islice((line for block in documents.blocks(source) for line in block.lines), count):
            compressed.write(line + b"\n")
            found += 1
        if found < count:
            raise UserError(f"{source}: holds {found:,} documents, fewer than the {count:,} of {target.name}")
