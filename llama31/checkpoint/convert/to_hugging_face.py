"""NeMo -> Hugging Face: safetensors of limited size, config.json, tokenizer.

Only one file's tensors are in memory at a time. Each file gets its name once complete, so a resumed run skips it.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig

from llama31.checkpoint.formats import parameter_mapping
from llama31.checkpoint.formats.hugging_face import GENERATION_CONFIG, INDEX, WEIGHTS, small_files
from llama31.checkpoint.formats.nemo import NOTES, NemoCheckpoint
from llama31.checkpoint.formats.safetensors_header import ITEM_BYTES
from llama31.common.errors import UserError
from llama31.common.files import failures_named, publish, sync
from llama31.common.json_files import load_json, write_json
from llama31.data.tokenizer import TOKENIZER_FILE

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FILE_BYTES = 1 << 30  # largest file, unless a single tensor is larger

Location = tuple[str, int]  # one of Megatron's keys, and the layer


def write(source: NemoCheckpoint, destination: Path, on_write: Callable[[int], object]) -> None:
    """Write the model into the directory `destination`. Calls `on_write` with the bytes of each file."""
    _write_weights(source, destination, on_write)
    with failures_named(destination):
        for file in small_files(source.tokenizer):
            shutil.copyfile(file, destination / file.name)
        _write_config(source, destination)


def _write_weights(source: NemoCheckpoint, destination: Path, on_write: Callable[[int], object]) -> None:
    sizes = _sizes(source)
    groups = list(_groups(sizes))
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = WEIGHTS if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        if not (destination / name).exists():
            _write_file(source, group, destination / name)
        on_write(sum(sizes[location] for location in group))
        for location in group:
            weight_map |= dict.fromkeys(parameter_mapping.hugging_face_names(*location), name)
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(destination / INDEX, index)


def _sizes(source: NemoCheckpoint) -> dict[Location, int]:
    """Return the bytes of each of Megatron's parameters, without padding, in Hugging Face's order."""
    shapes = source.architecture.shapes()
    sizes: dict[Location, int] = {}
    for name, shape in shapes.items():
        key, layer, _ = parameter_mapping.megatron_key(name)
        sizes[key, layer] = sizes.get((key, layer), 0) + math.prod(shape) * ITEM_BYTES[source.dtype(key)]
    return sizes


def _groups(sizes: dict[Location, int]) -> Iterator[list[Location]]:
    """Yield the parameters of each file."""
    group: list[Location] = []
    filled = 0
    for location, size in sizes.items():
        if group and filled + size > FILE_BYTES:
            yield group
            group, filled = [], 0
        group.append(location)
        filled += size
    yield group


def _write_file(source: NemoCheckpoint, group: list[Location], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for key, layer in group:
        parts = parameter_mapping.split(key, source.tensor(key, layer), source.architecture)
        names = parameter_mapping.hugging_face_names(key, layer)
        tensors |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    partial = path.parent / NOTES / path.name  # safetensors' temporary files survive a kill
    with failures_named(path):
        partial.parent.mkdir(exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(tensors, partial, metadata={"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"{path}: {error}") from error  # for instance a full disk
        partial.chmod(mode)  # safetensors restricts it to the owner
        sync(partial)
        publish(partial, path)


def _write_config(source: NemoCheckpoint, destination: Path) -> None:
    """Write config.json. Ids of special tokens come from the generation settings, else from the tokenizer."""
    tokens: dict[str, Any] = {}
    if (destination / TOKENIZER_FILE).exists():
        try:
            tokenizer = AutoTokenizer.from_pretrained(destination, trust_remote_code=False)  # else it asks
        except ValueError as error:  # for instance if it needs custom code
            line = " ".join(str(error).split())
            raise UserError(f"{source.tokenizer}: transformers cannot load the tokenizer: {line}") from error
        tokens = {name: getattr(tokenizer, name) for name in TOKEN_IDS}
    if (destination / GENERATION_CONFIG).exists():
        generation = load_json(destination / GENERATION_CONFIG)
        tokens |= {name: generation[name] for name in TOKEN_IDS if name in generation}
    fields = {**source.architecture.hugging_face(), **tokens, "dtype": source.dtype(parameter_mapping.EMBEDDING)}
    LlamaConfig(architectures=["LlamaForCausalLM"], **fields).save_pretrained(destination)
