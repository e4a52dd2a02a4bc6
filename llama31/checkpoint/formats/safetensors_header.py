"""The header of a safetensors file: its tensors, and where they are. Standard library only."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' names: torch's
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
SHOWN = 3  # names of tensors in one message
MAX_HEADER = 100_000_000  # bytes; the safetensors format allows no more


@dataclass(frozen=True)
class Stored:
    """A tensor of a safetensors file."""

    file: Path
    dtype: str
    """torch's name of it."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` of its bytes, or as many as there are, from `offset`."""
        with failures_named(self.file), open(self.file, "rb") as stream:
            stream.seek(self.start + offset)
            return stream.read(max(0, min(count, self.size - offset)))


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file. Raises UserError where the file is not whole."""
    with failures_named(file), open(file, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or 8 + length > size or length > MAX_HEADER:
            raise UserError(f"{file}: truncated, or no safetensors file: {size:,} bytes do not hold its header")
        text = stream.read(length)
    try:
        header = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        offsets = {name: entry["data_offsets"] for name, entry in header.items()}
        found = {name: (entry["dtype"], tuple(map(int, entry["shape"]))) for name, entry in header.items()}
        places = {name: (int(begin), int(end)) for name, (begin, end) in offsets.items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{file}: no safetensors file: its header cannot be read") from error
    expected = 8 + length + max((end for _, end in places.values()), default=0)
    if size != expected:
        kind = "truncated" if size < expected else "too long"
        raise UserError(f"{file}: {kind}: {size:,} bytes of {expected:,}; get it again")
    strange = [name for name, (dtype, _) in found.items() if dtype not in DTYPES]
    if strange:
        dtype = found[strange[0]][0]
        raise UserError(f"{file}: {some(strange)} of type {dtype}; what can be converted: {', '.join(DTYPES)}")
    tensors = {
        name: Stored(file, DTYPES[dtype], shape, 8 + length + places[name][0]) for name, (dtype, shape) in found.items()
    }
    if any(begin < 0 or end - begin != tensors[name].size for name, (begin, end) in places.items()):
        raise UserError(f"{file}: no safetensors file: its header cannot be read")
    return tensors


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
