"""Reading documents from files of JSON lines (.json, .jsonl), as they are or compressed (.gz)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import orjson
from isal import igzip, isal_zlib

from llama31.errors import UserError

BLOCK_BYTES = 16 << 20  # of JSON, read at a time
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """Consecutive whole lines of a file."""

    path: Path
    first_line: int
    """Number of the first line; a file's first is 1."""
    lines: list[bytes]
    bytes_read: int
    """Bytes of the file, as it lies on disk, that were read for this block."""


def check_inputs(paths: Sequence[Path]) -> int:
    """Total size of the input files in bytes. Raises UserError with a line for each that cannot be an input."""
    problems, total = [], 0
    for path in paths:
        if not path.name.endswith(SUFFIXES):
            problems.append(f"{path}: not one of {', '.join(SUFFIXES)}")
        elif not path.is_file():
            problems.append(f"{path}: no such file")
        else:
            total += path.stat().st_size
    if not paths:
        problems.append("no input files")
    if problems:
        raise UserError(problems)
    return total


def blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """The lines of a file in blocks of about `block_bytes`, empty lines included.

    Raises UserError where the file cannot be read, is not gzip though it is named so, or is a truncated gzip file.
    """
    try:
        with open(path, "rb") as raw:
            if path.suffix == ".gz":
                with igzip.open(raw, "rb") as stream:
                    yield from _blocks(path, raw, stream, block_bytes)
            else:
                yield from _blocks(path, raw, raw, block_bytes)
    except EOFError:
        raise UserError(f"{path}: truncated gzip file") from None
    except (OSError, isal_zlib.error) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _blocks(path: Path, raw: BinaryIO, stream: BinaryIO, block_bytes: int) -> Iterator[Block]:
    line, position = 1, 0
    pieces: list[bytes] = []  # of the line that the last block ended within
    while data := stream.read(block_bytes):
        cut = data.rfind(b"\n") + 1
        if cut:
            lines = b"".join([*pieces, data[:cut]]).split(b"\n")[:-1]
            yield Block(path, line, lines, raw.tell() - position)
            line, position = line + len(lines), raw.tell()
            pieces = []
        pieces.append(data[cut:])
    rest = b"".join(pieces)
    if rest:
        yield Block(path, line, [rest], raw.tell() - position)


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """The same items, the next one being made by a thread while one is in use."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def texts(block: Block, key: str) -> list[str]:
    """The text of each line that is not empty.

    Raises UserError, naming file and line, for what is not a JSON object with a text under `key`.
    """
    found = []
    for number, line in enumerate(block.lines, block.first_line):
        if not line or line.isspace():
            continue
        try:
            text = orjson.loads(line)[key]
        except orjson.JSONDecodeError as error:
            raise UserError(f"{block.path}:{number}: not JSON: {error}") from None
        except (KeyError, TypeError):
            raise UserError(f'{block.path}:{number}: not an object with a "{key}"') from None
        if type(text) is not str:
            raise UserError(f'{block.path}:{number}: "{key}" is not a string but {type(text).__name__}')
        found.append(text)
    return found
