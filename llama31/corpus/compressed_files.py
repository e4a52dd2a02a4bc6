"""Readers of plain, gzip and zstd files that can start at any gzip member or zstd frame."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backports.zstd import ZstdDecompressor, ZstdError
from isal import igzip_lib

from llama31.common.files import failures_named

READ_BYTES = 2 << 20  # of the compressed file at a time
MAGIC_BYTES = 4  # the longest magic number
DAMAGED = (igzip_lib.IsalError, ZstdError)
"""Exceptions that damaged data raises when it is read."""


class File(Protocol):
    """A file as stored on disk, not decompressed."""

    def read(self, count: int) -> bytes: ...

    def tell(self) -> int: ...


class Stream(Protocol):
    """A file's decompressed contents, read sequentially, with offsets from which reading can resume."""

    def read(self, limit: int) -> bytes:
        """Return the next bytes, at most `limit`; empty only at the end."""

    def locate(self, back: int) -> tuple[int, int]:
        """Locate the byte that is `back` bytes before the next one: (offset in the file, bytes to skip from there).

        `back` must not exceed the length of the data that the last `read` returned.
        """


class Decompressor(Protocol):
    """Decompressor of one gzip member or zstd frame, with the interface of Python's compression modules."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@dataclass(frozen=True)
class Format:
    """A compression format."""

    name: str
    suffix: str
    magic: re.Pattern[bytes]
    """Matches the first bytes of its data."""
    decompressor: Callable[[], Decompressor]


GZIP = Format("gzip", ".gz", re.compile(rb"\x1f\x8b"), lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
ZSTD = Format("zstd", ".zst", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), ZstdDecompressor)
FORMATS = (GZIP, ZSTD)


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its suffix; None for a plain file."""
    return next((each for each in FORMATS if path.suffix == each.suffix), None)


def suffix_problem(path: Path) -> str:
    """Compare a file's first bytes with its suffix; return the problem, empty if they agree or the file is too short.

    Raises UserError if the file cannot be read.
    """
    with failures_named(path), open(path, "rb") as file:
        head = file.read(MAGIC_BYTES)
    named, found = format_of(path), next((each for each in FORMATS if each.magic.match(head)), None)
    if named is found or len(head) < MAGIC_BYTES:
        return ""
    plain = path.name.removesuffix(named.suffix) if named else path.name
    if found:
        return f"contains {found.name} data; rename it to {plain}{found.suffix}"
    assert named is not None
    return f"is not {named.name} data: it begins with {head[:2]!r}; plain data must not be named {named.suffix}"


def decompressed(path: Path, file: File) -> Stream:
    """Return the contents of `file` from its current position, decompressed according to the suffix of `path`."""
    named = format_of(path)
    return CompressedStream(file, named) if named else PlainStream(file)


class PlainStream:
    """The contents of a file that is not compressed."""

    def __init__(self, raw: File):
        self._raw = raw

    def read(self, limit: int) -> bytes:
        return self._raw.read(limit)

    def locate(self, back: int) -> tuple[int, int]:
        return self._raw.tell() - back, 0


class CompressedStream:
    """The contents of the gzip members or zstd frames from the current position of `raw`.

    `read` raises EOFError if a member is truncated or there is none, and one of DAMAGED if the data is damaged or of
    another format.
    """

    def __init__(self, raw: File, kind: Format = GZIP):
        self._raw = raw
        self._kind = kind
        self._data = b""  # read from the file, but not decompressed yet
        self._start_member()

    def _start_member(self) -> None:
        self._member = self._kind.decompressor()
        self._offset = self._raw.tell() - len(self._data)
        self._inflated = 0

    def read(self, limit: int) -> bytes:
        while True:
            if self._member.eof:
                self._data = self._member.unused_data
                if not self._skip_padding():
                    return b""
                self._start_member()
            if self._member.needs_input and not self._data and not self._fill():
                raise EOFError
            inflated, self._data = self._member.decompress(self._data, limit), b""
            self._inflated += len(inflated)
            if inflated:
                return inflated

    def _skip_padding(self) -> bool:
        """Skip the zeros that may follow a member, as gzip does; return whether there is data after them."""
        while not (data := self._data.lstrip(b"\0")):
            if not self._fill():
                return False
        self._data = data
        return True

    def _fill(self) -> bool:
        self._data = self._raw.read(READ_BYTES)
        return bool(self._data)

    def locate(self, back: int) -> tuple[int, int]:
        return self._offset, self._inflated - back
