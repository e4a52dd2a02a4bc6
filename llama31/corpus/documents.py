"""Readers of JSON lines files (.json, .jsonl), plain or compressed (.gz, .zst).

Line ends are those of NeMo's preprocess_data_for_megatron.py: it opens plain files as text, with Python's universal
newlines, and reads compressed files as bytes, where only a line feed ends a line.
"""

import errno
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.corpus import compressed_files

BLOCK_BYTES = 6 << 20  # of JSON, read at a time
LINE_BYTES = 64 << 20  # longer lines are refused, to bound the memory
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")


@dataclass(frozen=True)
class LinePosition:
    """A position between two lines of a file, from which reading can resume."""

    line: int
    """Number of the next line, from 1."""
    offset: int
    """Offset in the file on disk to start reading from: of the line, or of the gzip member that contains it."""
    skip: int
    """Decompressed bytes between `offset` and the line."""
    bytes_read: int
    """Bytes of the file on disk that have been read so far."""
    sha256: str
    """SHA-256 of these bytes, in hexadecimal."""


BEGINNING = LinePosition(1, 0, 0, 0, hashlib.sha256().hexdigest())


@dataclass(frozen=True)
class Position:
    """A position in a sequence of files, from which reading can resume."""

    finished: tuple[str, ...]
    """SHA-256 of each file that was read to its end."""
    finished_bytes: int
    """Size of these files."""
    place: LinePosition
    """Position in the next file."""

    @property
    def bytes_read(self) -> int:
        """Bytes of all files on disk that have been read so far."""
        return self.finished_bytes + self.place.bytes_read


START = Position((), 0, BEGINNING)


@dataclass(frozen=True)
class LineBlock:
    """Consecutive complete lines of a file."""

    path: Path
    first_line: int
    """Number of the first line, from 1."""
    ended_lines: list[bytes]
    """The lines, each ended by a line feed; the last one may have none."""
    size: int
    """Their bytes."""
    end: LinePosition
    """Position after the last line."""

    @property
    def lines(self) -> list[bytes]:
        """The lines without line ends."""
        return [line.removesuffix(b"\n") for line in self.ended_lines]


def check_inputs(paths: Sequence[Path]) -> None:
    """Raise UserError with a line for each file that is not a usable input or is given twice."""
    problems = []
    first: dict[tuple[int, int], Path] = {}  # by device and inode, so that links count as the same file
    for path in paths:
        try:
            if not path.name.endswith(SUFFIXES):
                problems.append(f"{path}: not one of {', '.join(SUFFIXES)}")
            elif not path.is_file():
                problems.append(f"{path}: no such file")
            elif not os.access(path, os.R_OK):
                problems.append(f"{path}: {os.strerror(errno.EACCES)}")
            else:
                status = path.stat()
                if same := first.get((status.st_dev, status.st_ino)):
                    name = "given twice" if same == path else f"the same file as {same}"
                    problems.append(f"{path}: {name}; each document would count twice")
                first[status.st_dev, status.st_ino] = path
                if problem := compressed_files.suffix_problem(path):
                    problems.append(f"{path}: {problem}")
        except UserError as error:
            problems += error.lines
        except OSError as error:  # no permission to search the directory
            problems.append(f"{path}: {error.strerror}")
    if not paths:
        problems.append("no input files")
    if problems:
        raise UserError(problems)


def read(paths: Sequence[Path], start: Position = START, block_bytes: int = 0) -> Iterator[tuple[LineBlock, Position]]:
    """Yield the blocks of several files from a position on, each with the position after it; sizes as for `blocks`.

    Raises the exceptions of `blocks`, and InputChanged if a file that was read before has changed.
    """
    for path, sha256 in zip(paths, start.finished, strict=False):
        if sha256_of(path) != sha256:
            raise InputChanged(f"{path}: changed since it was read")
    position = start
    for path in paths[len(start.finished) :]:
        for block in blocks(path, position.place, block_bytes):
            position = replace(position, place=block.end)
            yield block, position
        end = position.place
        position = Position((*position.finished, end.sha256), position.finished_bytes + end.bytes_read, BEGINNING)


class InputChanged(UserError):
    """Raised if a file is not the one that a position was taken from."""


class _HashingReader:
    """A file that hashes the bytes read from it, each byte once."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self.hashed = 0

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def read(self, count: int) -> bytes:
        data = self._raw.read(count)
        new = self._raw.tell() - self.hashed
        if new > 0:
            self._sha256.update(data[-new:] if new < len(data) else data)
            self.hashed += new
        return data

    def tell(self) -> int:
        return self._raw.tell()

    def seek(self, offset: int) -> None:
        self._raw.seek(offset)


def blocks(path: Path, start: LinePosition = BEGINNING, block_bytes: int = 0) -> Iterator[LineBlock]:
    """Yield the lines of a file from `start` on, also empty ones, in blocks of about `block_bytes` (0: BLOCK_BYTES).

    The last block may have no lines; its `end` has the size and hash of the whole file. To resume from a position
    costs reading the file up to it, and decompressing its gzip member up to it.

    Raises UserError if the file cannot be read, if its compressed data is damaged or truncated, or if a line is longer
    than LINE_BYTES; InputChanged if it is not the file that `start` was taken from.
    """
    line = start.line
    try:
        with open(path, "rb") as raw:
            for block in _blocks(path, raw, start, block_bytes or BLOCK_BYTES):
                line = block.end.line
                yield block
    except EOFError:
        name = getattr(compressed_files.format_of(path), "name", "")
        raise UserError(f"{path}:{line}: truncated {name} file: it ends after this line began") from None
    except (OSError, *compressed_files.DAMAGED) as error:
        raise UserError(f"{path}:{line}: {getattr(error, 'strerror', None) or error}") from error


def _blocks(path: Path, raw: BinaryIO, start: LinePosition, block_bytes: int) -> Iterator[LineBlock]:
    file = _verified_reader(path, raw, start)
    file.seek(start.offset)
    stream, is_text = compressed_files.decompressed(path, file), compressed_files.format_of(path) is None
    skip = start.skip
    while skip:
        skip -= len(stream.read(min(skip, block_bytes)))

    def block(first_line: int, pieces: list[bytes], back: int) -> LineBlock:
        data = b"".join(pieces)
        if is_text and b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = io.BytesIO(data).readlines()  # 3 times as fast as bytes.split
        place = LinePosition(first_line + len(lines), *stream.locate(back), file.hashed, file.sha256)
        return LineBlock(path, first_line, lines, len(data), place)

    line = start.line
    unfinished: list[bytes] = []  # pieces of a line that is not complete yet
    pending = 0  # their bytes
    while data := stream.read(block_bytes):
        length = _length_of_whole_lines(data, is_text)
        if length:
            whole = block(line, [*unfinished, data[:length]], len(data) - length)
            yield whole
            line = whole.end.line
            unfinished, pending = [], 0
        unfinished.append(data[length:])
        pending += len(data) - length
        if pending > LINE_BYTES:
            raise UserError(f"{path}:{line}: a line of more than {LINE_BYTES >> 20} MiB, the limit")
    yield block(line, unfinished, 0)


def _length_of_whole_lines(data: bytes, is_text: bool) -> int:
    """Return the length of the complete lines at the beginning of `data`."""
    length = data.rfind(b"\n") + 1
    if is_text:  # a carriage return as the last byte may be the first half of a line end
        length = max(length, data.rfind(b"\r", length, -1) + 1)
    return length


def _verified_reader(path: Path, raw: BinaryIO, place: LinePosition) -> _HashingReader:
    file = _HashingReader(raw)
    while file.hashed < place.bytes_read and file.read(min(BLOCK_BYTES, place.bytes_read - file.hashed)):
        pass
    if file.sha256 != place.sha256:
        raise InputChanged(f"{path}: changed since it was read up to line {place.line}")
    return file
