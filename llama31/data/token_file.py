"""Megatron token files: PREFIX.bin holds the token ids of all documents, PREFIX.idx their positions.

Format: megatron.core.datasets.indexed_dataset. All numbers are little-endian. `tokenize` writes one sequence
per document; other tools may write several, such as one per sentence.

    .idx  "MMIDIDX\\0\\0", uint64 version 1, uint8 dtype code, uint64 sequences, uint64 documents + 1,
          int32 length of each sequence [tokens], int64 offset of each sequence in the .bin [bytes],
          int64 index of each document's first sequence, and the number of sequences at the end
    .bin  the ids, in the type that the dtype code names

Standard library only. `summary` reads only a few bytes, so that planning is fast for any size.
"""

import mmap
import struct
from array import array
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from llama31.common.errors import UserError
from llama31.common.files import failures_named

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
UINT16_BELOW = 65_500  # from this vocabulary size on, ids are int32: DType.optimal_dtype


class TokenType(Enum):
    """Type of the ids in a .bin: code in the .idx, type code of the array module, bytes per token."""

    int32 = (4, "i", 4)
    uint16 = (8, "H", 2)

    def __init__(self, code: int, typecode: str, itemsize: int):
        self.code = code
        self.typecode = typecode
        self.itemsize = itemsize

    @property
    def limit(self) -> int:
        """Smallest id that does not fit."""
        return 1 << 16 if self is TokenType.uint16 else 1 << 31

    @staticmethod
    def for_vocabulary(size: int) -> "TokenType":
        """Return the type that Megatron's preprocessing uses for a vocabulary of `size` entries."""
        return TokenType.uint16 if size < UINT16_BELOW else TokenType.int32


TYPES = {token_type.code: token_type for token_type in TokenType}


def bin_path(prefix: Path) -> Path:
    """Return PREFIX.bin."""
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    """Return PREFIX.idx."""
    return prefix.with_name(prefix.name + ".idx")


def require_prefix(prefix: Path) -> None:
    """Raise UserError if a prefix ends in .bin or .idx."""
    for path_of in (bin_path, idx_path):
        if path_of(without := prefix.with_suffix("")) == prefix:
            raise UserError(f"{prefix}: not the prefix of a token file; omit the extension: {without}")


@dataclass(frozen=True)
class TokenFile:
    """Sizes of a .bin/.idx pair."""

    prefix: Path
    documents: int
    stored_sequences: int
    """Entries of the index, one or more per document."""
    tokens: int
    token_type: TokenType

    def sequences(self, seq_length: int) -> int:
        """Return the number of whole training sequences: `seq_length` tokens each, and the next token as last label."""
        return (self.tokens - 1) // seq_length

    def first_tokens(self, count: int) -> "array[int]":
        """Return the first `count` ids, fewer if the file has fewer."""
        return self._read(0, min(count, self.tokens))

    def last_tokens(self, count: int) -> "array[int]":
        """Return the last `count` ids, fewer if the file has fewer."""
        count = min(count, self.tokens)
        return self._read(self.tokens - count, count)

    def _read(self, start: int, count: int) -> "array[int]":
        ids = array(self.token_type.typecode)
        path = bin_path(self.prefix)
        with failures_named(path), open(path, "rb") as file:
            file.seek(start * self.token_type.itemsize)
            ids.frombytes(file.read(count * self.token_type.itemsize))
        return ids


def summary(prefix: str | Path) -> TokenFile:
    """Check PREFIX.idx and PREFIX.bin without reading them completely. Return their sizes.

    Raises UserError, one line, if a file is missing, unreadable, empty, truncated or too long, if the index has another
    format, or if the pair holds no documents.
    """
    prefix = Path(prefix)
    index, data = idx_path(prefix), bin_path(prefix)
    index_size, data_size = _size(index), _size(data)
    with failures_named(index), open(index, "rb") as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size and MAGIC.startswith(header[: len(MAGIC)]):
            raise UserError(f"{index}: truncated within its header: {index_size} of {HEADER.size} bytes")
        if not header.startswith(MAGIC):
            raise UserError(f"{index}: not a Megatron index: starts with {header[: len(MAGIC)]!r} instead of {MAGIC!r}")
        _, version, code, sequences, ends = HEADER.unpack(header)
        if version != VERSION:
            raise UserError(f"{index}: index version {version}; supported: {VERSION}")
        if code not in TYPES:
            known = ", ".join(f"{token_type.code} ({token_type.name})" for token_type in TokenType)
            raise UserError(f"{index}: dtype code {code} is not one for token ids: {known}")
        token_type = TYPES[code]
        pointers = HEADER.size + 4 * sequences
        expected = pointers + 8 * sequences + 8 * ends
        if index_size != expected:
            raise UserError(f"{index}: {_difference(index_size, expected)} of an index of {sequences:,} sequences")
        if sequences == 0 or ends < 2:
            raise UserError(f"{index}: holds no documents")
        length = _number(file, pointers - 4, "<i")
        pointer = _number(file, pointers + 8 * (sequences - 1), "<q")
        last = _number(file, expected - 8, "<q")
    end = pointer + length * token_type.itemsize
    if length < 0 or pointer < 0 or end % token_type.itemsize or last != sequences:
        raise UserError(
            f"{index}: damaged: its last sequence has {length} tokens at byte {pointer}, "
            f"and its documents end at sequence {last} of {sequences}"
        )
    if data_size != end:
        raise UserError(f"{data}: {_difference(data_size, end)} that {index.name} describes")
    if end == 0:
        raise UserError(f"{data}: holds no tokens")
    return TokenFile(prefix, ends - 1, sequences, end // token_type.itemsize, token_type)


def require_mmap(prefix: Path) -> None:
    """Raise OSError if the files cannot be mapped into memory, as Megatron-Core does: some FUSE mounts refuse it."""
    for path in (idx_path(prefix), bin_path(prefix)):
        with open(path, "rb") as file:
            mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ).close()


def _size(path: Path) -> int:
    """Return the size of a file, bytes. Raises UserError if it is missing or empty."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; python3 -m llama31 tokenize makes it") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if size == 0:
        raise UserError(f"{path}: is empty")
    return size


def _difference(size: int, expected: int) -> str:
    state = "truncated" if size < expected else "too long"
    return f"{state}: {size:,} bytes instead of the {expected:,}"


def _number(file: BinaryIO, offset: int, form: str) -> int:
    file.seek(offset)
    number: int = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return number
