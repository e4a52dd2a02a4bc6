"""Scan a token file once from beginning to end for errors, its largest id and its hashes.

Memory use does not depend on the size. SHA-256 determines the speed if hashes are computed, else the disk does.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.progress import Progress
from llama31.corpus.pipeline import prefetched
from llama31.data.token_file import HEADER, TokenFile, bin_path, idx_path

BLOCK = 1 << 20  # numbers read at a time

Numbers: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Scan:
    """The result of scanning a token file."""

    problems: list[str]
    """A line for each kind of error, with its first occurrence."""
    largest_id: int
    idx_sha256: str
    """SHA-256 of the .idx, in hexadecimal; of no data if hashes are not computed."""
    bin_sha256: str


def scan(file: TokenFile, largest_id: int, hashed: bool, progress: Progress) -> Scan:
    """Scan a .bin/.idx pair, whose ids should be 0 to `largest_id`; compute its hashes if `hashed`.

    Raises UserError if a file cannot be read, or is truncated during the scan.
    """
    index, data = _Reading(idx_path(file.prefix), hashed, progress), _Reading(bin_path(file.prefix), hashed, progress)
    problems = list(_index_problems(index, file))
    largest = -1

    def ids() -> Iterator[tuple[Numbers, Numbers]]:
        nonlocal largest
        for block in data.following(f"<i{file.token_type.itemsize}", file.tokens):
            unsigned = block.view(f"<u{file.token_type.itemsize}")  # negative ids become large ones
            numbers = unsigned if file.token_type.typecode.isupper() else block
            largest = max(largest, int(numbers.max()))
            yield numbers, unsigned <= largest_id

    if error := _first(ids()):
        problems.append(f"{data.path}: token {error[0]:,} is id {error[1]}, not one of 0 to {largest_id}")
    return Scan(problems, largest, index.sha256.hexdigest(), data.sha256.hexdigest())


class _Reading:
    """A file that is read sequentially."""

    def __init__(self, path: Path, hashed: bool, progress: Progress):
        self.path = path
        self.sha256 = hashlib.sha256()
        self._hashed = hashed
        self._progress = progress
        self._position = 0

    def following(self, dtype: str, count: int) -> Iterator[Numbers]:
        """Yield the next `count` numbers in blocks; a thread reads ahead."""
        start, self._position = self._position, self._position + np.dtype(dtype).itemsize * count
        for block in prefetched(_numbers(self.path, dtype, start, count)):
            if self._hashed:
                self.sha256.update(block.data)
            self._progress.reach(self._progress.done + block.nbytes, self.path.name)
            yield block


def _numbers(path: Path, dtype: str, start: int, count: int) -> Iterator[Numbers]:
    """Yield `count` numbers of a file from byte `start` on, in blocks."""
    with failures_named(path), open(path, "rb") as file:
        file.seek(start)
        for size in [BLOCK] * (count // BLOCK) + [count % BLOCK] * (count % BLOCK > 0):
            size *= np.dtype(dtype).itemsize
            data = file.read(size)
            if len(data) < size:
                raise UserError(f"{path}: truncated while it was read")
            yield np.frombuffer(data, dtype)


def _index_problems(index: _Reading, file: TokenFile) -> Iterator[str]:
    """Yield a line for each error in an index, section by section: lengths, pointers, documents."""
    (header,) = index.following(f"V{HEADER.size}", 1)
    *_, sequences, ends = HEADER.unpack(header.tobytes())
    lengths = index.following("<i4", sequences)
    name = "document" if sequences == ends - 1 else "stored sequence"
    if error := _first((block, block > 0) for block in lengths):
        yield f"{index.path}: {name} {error[0]:,} has {error[1]:,} tokens"
    expected = _pointers(_numbers(index.path, "<i4", HEADER.size, sequences), file.token_type.itemsize)
    found = index.following("<i8", sequences)
    if error := _first((block, block == right) for block, right in zip(found, expected, strict=True)):
        yield f"{index.path}: {name} {error[0]:,} begins at byte {error[1]:,}, not where the one before it ends"
    if error := _first(_rising(index.following("<i8", ends), sequences, ends)):
        yield (
            f"{index.path}: entry {error[0]:,} of the document index is {error[1]:,}; "
            f"it must rise from 0 to {sequences:,}, the number of stored sequences"
        )


def _rising(blocks: Iterable[Numbers], sequences: int, ends: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Check that the entries of a document index rise strictly from 0 to `sequences`; yield (entries, is_right)."""
    before, place = -1, 0
    for block in blocks:
        is_right = (np.diff(block, prepend=before) > 0) & (block <= sequences)
        is_right[0] &= place > 0 or block[0] == 0
        is_right[-1] &= place + len(block) < ends or block[-1] == sequences
        yield block, is_right
        before, place = int(block[-1]), place + len(block)


def _pointers(lengths: Iterable[Numbers], itemsize: int) -> Iterator[Numbers]:
    """Yield the byte offset of each document, from the documents' lengths."""
    end = 0
    for block in lengths:
        ends = end + np.cumsum(block, dtype=np.int64) * itemsize
        yield np.concatenate(([end], ends[:-1]))
        end = int(ends[-1])


def _first(blocks: Iterable[tuple[Numbers, Numbers]]) -> tuple[int, int] | None:
    """Return index and value of the first wrong number, None if there is none. Reads all blocks, to hash them."""
    first, start = None, 0
    for block, is_right in blocks:
        if first is None and not is_right.all():
            place = int(is_right.argmin())
            first = start + place, int(block[place])
        start += len(block)
    return first
