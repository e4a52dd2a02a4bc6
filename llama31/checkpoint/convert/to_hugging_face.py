"""NeMo -> Hugging Face: safetensors of limited size, config.json, tokenizer.

One of Megatron's parameters at a time is in memory, or the few of which parts are still to be written. Each file gets
its name once complete, so a resumed run skips it.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig

from llama31.checkpoint.formats import parameter_mapping, safetensors_header
from llama31.checkpoint.formats.hugging_face import GENERATION_CONFIG, INDEX, WEIGHTS, small_files
from llama31.checkpoint.formats.nemo import NemoCheckpoint
from llama31.checkpoint.formats.safetensors_header import ITEM_BYTES
from llama31.common.direct_file import DirectWriter
from llama31.common.errors import UserError
from llama31.common.files import failures_named, published_when_complete
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
    """Write the parameters of a file one after another, with the same bytes as safetensors' own function."""
    locations = {name: location for location in group for name in parameter_mapping.hugging_face_names(*location)}
    shapes = source.architecture.shapes()
    contents = {name: (source.dtype(key), shapes[name]) for name, (key, _) in locations.items()}
    waiting: dict[str, Tensor] = {}  # parts of Megatron's parameters that were read and are not written yet
    with published_when_complete(path) as partial, DirectWriter(partial) as file:
        file.write(safetensors_header.header(contents))
        for name in safetensors_header.in_order(contents):
            if name not in waiting:
                key, layer = locations[name]
                parts = parameter_mapping.split(key, source.tensor(key, layer), source.architecture)
                waiting |= zip(parameter_mapping.hugging_face_names(key, layer), parts, strict=True)
            file.write(waiting.pop(name).contiguous().flatten().view(torch.uint8).numpy().data)


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
