"""The table of contents of a torch distributed checkpoint, `.metadata`, read without running anything in it.

It is a pickle of torch's and Megatron's classes. Unpickling runs what a pickle names; here every name becomes an inert
record instead, so a checkpoint from anywhere can be looked at, and torch is not imported.
"""

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import failures_named

FILE = ".metadata"


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor, and where it is: `length` bytes from `offset` of `file`, as torch.save writes a tensor."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint."""

    dtype: str
    """torch's name of it."""
    shape: tuple[int, ...]
    chunks: list[Chunk] = field(default_factory=list)


def read(directory: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint. Raises UserError where there is no table, or it cannot be understood."""
    table = load(directory)
    with _refused(directory / FILE):
        places = {_place(index): info for index, info in table.storage_data.items()}
        return {
            key: _contents(key, tensor, places)
            for key, tensor in table.state_dict_metadata.items()
            if hasattr(tensor, "chunks")  # others are objects, not tensors
        }


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turns whatever a table of another form leads to into a UserError."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{path}: cannot be read as the table of a distributed checkpoint ({error!r:.100})") from error


def _place(index: Any) -> tuple[str, tuple[int, ...]]:
    return index.fqn, tuple(getattr(index, "offset", None) or ())


def _contents(key: str, tensor: Any, places: dict[tuple[str, tuple[int, ...]], Any]) -> StoredTensor:
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
    """Stands for an object of any class: keeps its state, does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


class InertUnpickler(pickle.Unpickler):
    """Imports nothing: a name becomes a plain container or a record."""

    CONTAINERS = {("torch", "Size"): tuple, ("collections", "OrderedDict"): OrderedDict}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> Any:
        return self.CONTAINERS.get((module, name)) or type(name.rpartition(".")[2], (UnpickledState,), {})


def load(directory: Path, unpickler: type[InertUnpickler] = InertUnpickler) -> Any:
    """The table of the checkpoint in a directory, a torch.distributed.checkpoint Metadata as records.

    Raises UserError where there is none, or it is damaged, or the unpickler refuses what it names.
    """
    path = directory / FILE
    with failures_named(path), open(path, "rb") as file, _refused(path):
        return unpickler(file).load()
