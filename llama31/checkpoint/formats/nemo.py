"""NeMo checkpoints of a Llama: `context` and `weights`. The checks need only PyYAML."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama31.checkpoint.formats import architecture, dcp_metadata, parameter_mapping
from llama31.checkpoint.formats.architecture import Architecture
from llama31.checkpoint.formats.dcp_metadata import StoredTensor
from llama31.checkpoint.formats.safetensors_header import DTYPES, ITEM_BYTES
from llama31.common.direct_file import open_to_read
from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import load_json
from llama31.common.yaml_files import parsed
from llama31.data import tokenizer

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONTEXT = "weights", "context"
TOKENIZER = "tokenizer"  # directory in the context, in checkpoints written here
NOTES = "writing"  # directory for progress records, in a checkpoint while it is written
MODEL = "model.yaml"  # in the context: the complete configuration of the model
BACKEND = "metadata.json"  # in the weights


@dataclass(frozen=True)
class NemoCheckpoint:
    """A checked checkpoint: all parameters exist and have the right shapes."""

    path: Path
    architecture: Architecture
    tokenizer: Path
    """Directory of the tokenizer and the generation settings; it may be missing."""
    tensors: dict[str, StoredTensor]
    """The model's parameters by key."""
    from_disk: bool = False
    """Whether to read weights around the page cache."""

    def dtype(self, key: str) -> str:
        """Return the type in which a parameter is stored, by torch's name."""
        return self.tensors[key].dtype

    def tensor(self, key: str, layer: int, into: "Tensor | None" = None) -> "Tensor":
        """Read one parameter, joined from its shards; of one layer if it is layered.

        With `into`, a tensor of its shape and any type, it is copied there and `into` is returned.
        """
        import torch

        contents = self.tensors[key]
        layered = parameter_mapping.is_layered(key)
        shape = contents.shape[1:] if layered else contents.shape
        chunks = [chunk for chunk in contents.chunks if not layered or chunk.offsets[0] == layer]
        if into is None and len(chunks) == 1:
            return self._read(chunks[0]).view(shape)
        whole = torch.empty(shape, dtype=getattr(torch, contents.dtype)) if into is None else into
        for chunk in chunks:
            block = [slice(start, start + size) for start, size in zip(chunk.offsets, chunk.sizes, strict=True)]
            part = self._read(chunk)
            whole[tuple(block[1:] if layered else block)].copy_(part[0] if layered else part)
        return whole

    def _read(self, chunk: dcp_metadata.Chunk) -> "Tensor":
        """Read one block; torch.load unpickles nothing but tensors here. Raises UserError if it is damaged."""
        import torch
        from torch.distributed.checkpoint.utils import _create_file_view

        path = self.path / WEIGHTS / chunk.file
        file: Any
        try:
            with open_to_read(path, from_disk=self.from_disk) as file:
                view = _create_file_view(file, chunk.offset, chunk.length)
                return torch.load(view, map_location="cpu", weights_only=True).view(chunk.sizes)
        except Exception as error:  # of many types, for a file of another form
            line = str(error).partition("\n")[0]
            raise UserError(f"{path}: cannot be read at byte {chunk.offset:,}: {line[:100]}; get it again") from error

    def files(self) -> list[Path]:
        """Return the weights' files and their table of contents."""
        names = {chunk.file for contents in self.tensors.values() for chunk in contents.chunks}
        return [self.path / WEIGHTS / name for name in (dcp_metadata.FILE, *sorted(names))]

    def bytes(self) -> int:
        """Return the size of all weights, bytes."""
        return sum(math.prod(contents.shape) * ITEM_BYTES[contents.dtype] for contents in self.tensors.values())


def inspect(path: Path) -> NemoCheckpoint:
    """Read and check all but the weights. Raises UserError, a line for each problem, unless it is a complete Llama."""
    for directory in (path / CONTEXT, path / WEIGHTS):
        if not directory.is_dir():
            raise UserError(f"{path}: has no directory {directory.name}; a NeMo checkpoint has context and weights")
    backend = load_json(path / WEIGHTS / BACKEND)
    if not isinstance(backend, dict) or backend.get("sharded_backend") != "torch_dist":
        raise UserError(f"{path / WEIGHTS / BACKEND}: not in the format torch_dist, the only supported one")
    tensors = dcp_metadata.read(path / WEIGHTS)
    model = read_model(path)
    tokenizer_dir = _tokenizer(path / CONTEXT, model)
    config = model["config"]
    tokenizer_ids = 0 if config.get("vocab_size") else tokenizer.vocabulary_size(tokenizer_dir)
    llama = architecture.from_nemo(config, tokenizer_ids, path / CONTEXT / MODEL)
    # The rest is the state of optimizer and trainer.
    ours = {key: contents for key, contents in tensors.items() if key.startswith(parameter_mapping.PREFIX)}
    checkpoint = NemoCheckpoint(path, llama, tokenizer_dir, ours)
    problems = list(_wrong_parameters(checkpoint)) or list(_wrong_files(checkpoint))
    if problems:
        raise UserError(problems)
    return checkpoint


def read_model(checkpoint: Path) -> dict[str, Any]:
    """Return the content of model.yaml; import none of its classes. Raises UserError if it has no configuration."""
    path = checkpoint / CONTEXT / MODEL
    with failures_named(path):
        text = path.read_bytes()
    try:
        model = parsed(text)
    except ValueError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if not isinstance(model, dict) or not isinstance(model.get("config"), dict):
        raise UserError(f"{path}: has no configuration of a model")
    return model


def _tokenizer(context: Path, model: dict[str, Any]) -> Path:
    described = model.get("tokenizer")
    name = described.get("pretrained_model_name") if isinstance(described, dict) else None
    return context / (name if isinstance(name, str) else TOKENIZER)


def _wrong_parameters(checkpoint: NemoCheckpoint) -> Iterator[str]:
    """Yield a line for each parameter that is missing, unknown, incomplete, or of another shape or type."""
    llama, where = checkpoint.architecture, checkpoint.path / WEIGHTS
    expected, shapes = parameter_mapping.megatron_keys(llama), llama.shapes()
    for key in expected:
        if key not in checkpoint.tensors:
            yield f"{where}: holds no {key}, which {MODEL} requires"
            continue
        contents = checkpoint.tensors[key]
        parts = [shapes[name] for name in parameter_mapping.hugging_face_names(key)]
        shape = (sum(part[0] for part in parts), *parts[0][1:])
        layered = parameter_mapping.is_layered(key)
        shape = (llama.layers, *shape) if layered else shape
        found = contents.shape
        if key in (parameter_mapping.EMBEDDING, parameter_mapping.OUTPUT) and found[0] >= shape[0]:
            found = (shape[0], *found[1:])  # Megatron pads the vocabulary
        if found != shape:
            yield f"{where}: {key} has shape {list(contents.shape)}; {MODEL} requires {list(shape)}"
        elif contents.dtype not in DTYPES.values():
            yield f"{where}: {key} is {contents.dtype}; supported: {', '.join(DTYPES.values())}"
        elif sum(math.prod(chunk.sizes) for chunk in contents.chunks) != math.prod(contents.shape):
            yield f"{where}: {key} is incomplete: the table lacks a part of it"
        elif layered and any(chunk.sizes[0] != 1 for chunk in contents.chunks):
            yield f"{where}: {key} is stored with several layers in a chunk; Megatron stores one"
    for key in sorted(checkpoint.tensors.keys() - set(expected)):
        yield f"{where}: holds {key}, which a Llama with this {MODEL} does not have; it would be lost"


def _wrong_files(checkpoint: NemoCheckpoint) -> Iterator[str]:
    """Yield a line for each file of the table that is missing or too short."""
    needed: dict[str, int] = {}
    for contents in checkpoint.tensors.values():
        for chunk in contents.chunks:
            needed[chunk.file] = max(needed.get(chunk.file, 0), chunk.offset + chunk.length)
    for name, size in sorted(needed.items()):
        file = checkpoint.path / WEIGHTS / name
        if Path(name).name != name or not file.is_file():
            yield f"{checkpoint.path / WEIGHTS / dcp_metadata.FILE}: names {name}, which is missing"
        elif file.stat().st_size < size:
            yield f"{file}: truncated: {file.stat().st_size:,} bytes of {size:,}"
