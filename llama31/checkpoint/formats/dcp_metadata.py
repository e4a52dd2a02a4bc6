"""Read the table of contents of a torch distributed checkpoint, `.metadata`, without executing anything in it.

It is a pickle of torch's and Megatron's classes, and unpickling calls what a pickle names. Here every name becomes an
inert record, so that untrusted checkpoints can be inspected, and torch is not imported.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama31.checkpoint.formats import pickle_memo
from llama31.common.errors import UserError
from llama31.common.files import failures_named

FILE = ".metadata"


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor, stored by torch.save in `length` bytes of `file` from `offset`."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint."""

    dtype: str
    """torch's name of the type."""
    shape: tuple[int, ...]
    chunks: list[Chunk] = field(default_factory=list)


def read(directory: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a checkpoint by key. Raises UserError if the table is missing or cannot be parsed."""
    table = load(directory)
    with _parse_errors_named(directory / FILE):
        infos = table.storage_data.items()
        places = {(index.fqn, tuple(getattr(index, "offset", None) or ())): info for index, info in infos}
        return {
            key: _tensor(key, tensor, places)
            for key, tensor in table.state_dict_metadata.items()
            if hasattr(tensor, "chunks")  # others are objects, not tensors
        }


@contextmanager
def _parse_errors_named(path: Path) -> Iterator[None]:
    """Turn any exception from a table of another form into a UserError that names `path`."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read as the table of a distributed checkpoint ({error!r:.100})") from error


def _tensor(key: str, tensor: Any, places: dict[tuple[str, tuple[int, ...]], Any]) -> StoredTensor:
    chunks = []
    for chunk in tensor.chunks:
        place = places[key, tuple(chunk.offsets)]
        if getattr(place, "transform_descriptors", None):
            raise ValueError(f"{key} is stored as {place.transform_descriptors}")
        chunks.append(
            Chunk(tuple(chunk.offsets), tuple(chunk.sizes), str(place.relative_path), place.offset, place.length)
        )
    dtype = tensor.properties.state[0].__name__
    return StoredTensor(dtype, tuple(tensor.size), chunks)


class UnpickledState:
    """Stand-in for an object of any class: it keeps the state and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class InertUnpickler(pickle.Unpickler):
    """Unpickler that imports nothing: each class becomes a plain container or an `UnpickledState`."""

    CONTAINERS = {("torch", "Size"): tuple, ("collections", "OrderedDict"): OrderedDict}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        return self.CONTAINERS.get((module, name)) or type(name.rpartition(".")[2], (UnpickledState,), {})


def load(directory: Path, unpickler: type[InertUnpickler] = InertUnpickler) -> Any:
    """Return the table of a checkpoint: torch.distributed.checkpoint's Metadata as inert records.

    Raises UserError if it is missing or damaged, or if the unpickler refuses a name in it.
    """
    path = directory / FILE
    with failures_named(path):
        content = path.read_bytes()
    with _parse_errors_named(path):
        pickle_memo.check(content)
        return unpickler(io.BytesIO(content)).load()
