"""Headers of safetensors files: the tensors and their offsets. Standard library only."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import parsed

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' name -> torch's
WRITTEN = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # in the order of a file
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
SHOWN = 3  # names of tensors in a message
MAX_HEADER = 100_000_000  # bytes; the safetensors format allows no more


@dataclass(frozen=True)
class Stored:
    """A tensor of a safetensors file."""

    file: Path
    dtype: str
    """torch's name of the type."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""

    @property
    def size(self) -> int:
        """Size of its data, bytes."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes of its data from `offset`, fewer at the end."""
        with failures_named(self.file), open(self.file, "rb") as stream:
            stream.seek(self.start + offset)
            return stream.read(max(0, min(count, self.size - offset)))


def read_header(file: Path) -> dict[str, Stored]:
    """Return the tensors of a safetensors file by name. Raises UserError if the file is truncated or damaged."""
    with failures_named(file), open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or 8 + length > size or length > MAX_HEADER:
            raise UserError(f"{file}: truncated or not a safetensors file: {size:,} bytes are too few for its header")
        text = stream.read(length)
    try:
        header = parsed(text)
        notes = header.pop("__metadata__", {})
        if not all(isinstance(word, str) for word in (*notes, *notes.values())):
            raise TypeError("the metadata are not texts by names")
        offsets = {name: entry["data_offsets"] for name, entry in header.items()}
        found = {name: (str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in header.items()}
        ranges = {name: (int(begin), int(end)) for name, (begin, end) in offsets.items()}
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError) as error:
        raise UserError(f"{file}: not a safetensors file: its header cannot be read") from error
    expected = 8 + length + max((end for _, end in ranges.values()), default=0)
    if size != expected:
        kind = "truncated" if size < expected else "too long"
        raise UserError(f"{file}: {kind}: {size:,} bytes of {expected:,}; download it again")
    if unsupported := [name for name, (dtype, _) in found.items() if dtype not in DTYPES]:
        dtype = found[unsupported[0]][0]
        raise UserError(f"{file}: {some(unsupported)} of type {dtype}; supported: {', '.join(DTYPES)}")
    tensors = {
        name: Stored(file, DTYPES[dtype], shape, 8 + length + ranges[name][0]) for name, (dtype, shape) in found.items()
    }
    if any(begin < 0 or end - begin != tensors[name].size for name, (begin, end) in ranges.items()):
        raise UserError(f"{file}: not a safetensors file: its header cannot be read")
    return tensors


def in_order(contents: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Return the names of tensors in the order in which safetensors stores them: by type, then by name.

    Args:
        contents: By name, torch's name of the type, and the shape.
    """
    types = list(WRITTEN)
    return sorted(contents, key=lambda name: (types.index(contents[name][0]), name))


def header(contents: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Return the start of a file that holds these tensors `in_order`, as safetensors writes it for torch."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in in_order(contents):
        dtype, shape = contents[name]
        end = start + ITEM_BYTES[dtype] * math.prod(shape)
        fields[name] = {"dtype": WRITTEN[dtype], "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def some(names: list[str]) -> str:
    """Return the first names of a list as text, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
