"""Reading lines from files of JSON lines (.json, .jsonl), plain or compressed (.gz, .zst).

Lines end where NeMo's preprocess_data_for_megatron.py has them end: it opens plain files as text, with Python's
universal newlines, and reads compressed ones as bytes, in which only a line feed ends a line.
"""

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.corpus import compressed_files

BLOCK_BYTES = 6 << 20  # of JSON, read at a time
LINE_BYTES = 64 << 20  # a longer line is refused: what one line needs bounds the memory
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")

T = TypeVar("T")


@dataclass(frozen=True)
class LinePosition:
    """A place between two lines of a file, from where reading can go on."""

    line: int
    """Number of the next line; a file's first is 1."""
    offset: int
    """Byte of the file, as it lies on disk, to start from: that of the line, or of the gzip member that holds it."""
    skip: int
    """Bytes of JSON between `offset` and the line."""
    bytes_read: int
    """Bytes of the file, as it lies on disk, that have been read so far: all of them in the end."""
    sha256: str
    """SHA-256 of these bytes, in hexadecimal."""


BEGINNING = LinePosition(1, 0, 0, 0, hashlib.sha256().hexdigest())


@dataclass(frozen=True)
class Position:
    """How far several files have been read, one after another."""

    finished: tuple[str, ...]
    """SHA-256 of each file that was read to its end and left."""
    finished_bytes: int
    """Their size."""
    place: LinePosition
    """In the file after those."""

    @property
    def bytes_read(self) -> int:
        """Bytes of all files, as they lie on disk, that have been read so far."""
        return self.finished_bytes + self.place.bytes_read


START = Position((), 0, BEGINNING)


@dataclass(frozen=True)
class LineBlock:
    """Consecutive whole lines of a file."""

    path: Path
    first_line: int
    """Number of the first line; a file's first is 1."""
    lines: list[bytes]
    end: LinePosition
    """The place after the last line."""


def check_inputs(paths: Sequence[Path]) -> None:
    """Raises UserError with a line for each file that cannot be an input, or is given twice."""
    problems = []
    first: dict[tuple[int, int], Path] = {}  # by device and inode, so also through links
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
                if problem := compressed_files.misnamed(path):
                    problems.append(f"{path}: {problem}")
        except UserError as error:
            problems += error.lines
        except OSError as error:  # a directory that may not be searched
            problems.append(f"{path}: {error.strerror}")
    if not paths:
        problems.append("no input files")
    if problems:
        raise UserError(problems)


def read(paths: Sequence[Path], start: Position = START) -> Iterator[tuple[LineBlock, Position]]:
    """The blocks of several files from a position on, each with the position after it.

    Raises what `blocks` raises, and Changed where a file that was read before is another now.
    """
    for path, sha256 in zip(paths, start.finished, strict=False):
        if sha256_of(path) != sha256:
            raise Changed(f"{path}: changed since it was read")
    position = start
    for path in paths[len(start.finished) :]:
        for block in blocks(path, position.place):
            position = replace(position, place=block.end)
            yield block, position
        end = position.place
        position = Position((*position.finished, end.sha256), position.finished_bytes + end.bytes_read, BEGINNING)


class Changed(UserError):
    """A file is not the one that a place was taken from."""


class _Hashed:
    """A file that hashes what is read of it, each byte once."""

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
    """The lines of a file from `start` on in blocks of at most about `block_bytes` (0: BLOCK_BYTES), with empty lines.

    The last block may be without lines; its end tells the whole file's size and hash. Going on from a place costs
    reading the file up to there, and decompressing its gzip member up to there.

    Raises UserError where the file cannot be read, holds damaged or truncated compressed data or has a line of more
    than LINE_BYTES; Changed where it is not the file that `start` was taken from.
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
    file = _read_before(path, raw, start)
    file.seek(start.offset)
    stream, is_text = compressed_files.opened(path, file), compressed_files.format_of(path) is None
    skip = start.skip
    while skip:
        skip -= len(stream.read(min(skip, block_bytes)))

    def block(first_line: int, lines: list[bytes], back: int) -> LineBlock:
        place = LinePosition(first_line + len(lines), *stream.place(back), file.hashed, file.sha256)
        return LineBlock(path, first_line, lines, place)

    line = start.line
    pieces: list[bytes] = []  # of the line that the last block ended within
    pending = 0  # their bytes
    while data := stream.read(block_bytes):
        cut = _whole_lines(data, is_text)
        if cut:
            lines = _split(b"".join([*pieces, data[:cut]]), is_text)
            yield block(line, lines, len(data) - cut)
            line += len(lines)
            pieces, pending = [], 0
        pieces.append(data[cut:])
        pending += len(data) - cut
        if pending > LINE_BYTES:
            raise UserError(f"{path}:{line}: a line of more than {LINE_BYTES >> 20} MiB, the longest that is read")
    yield block(line, _split(b"".join(pieces), is_text), 0)


def _whole_lines(data: bytes, is_text: bool) -> int:
    """Count the bytes up to the end of the last line that certainly ends in `data`."""
    cut = data.rfind(b"\n") + 1
    if is_text:  # a carriage return at the very end may be the first half of a line end
        cut = max(cut, data.rfind(b"\r", cut, -1) + 1)
    return cut


def _split(data: bytes, is_text: bool) -> list[bytes]:
    """Split into lines without their ends; the last one may lack its end."""
    if is_text:
        return data.splitlines()  # of bytes: at \n, \r and \r\n alone
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _read_before(path: Path, raw: BinaryIO, place: LinePosition) -> _Hashed:
    file = _Hashed(raw)
    while file.hashed < place.bytes_read and file.read(min(BLOCK_BYTES, place.bytes_read - file.hashed)):
        pass
    if file.sha256 != place.sha256:
        raise Changed(f"{path}: changed since it was read up to line {place.line}")
    return file


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made by a thread while one is in use."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
