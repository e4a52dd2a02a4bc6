"""NeMo -> Hugging Face: safetensors of limited size, config.json, tokenizer.

One file's tensors at a time are in memory. A file that has its name is complete; a run that goes on after an
interruption keeps it.
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
from llama31.checkpoint.formats.hugging_face import GENERATION_CONFIG, INDEX, WEIGHTS
from llama31.checkpoint.formats.nemo import NOTES, NemoCheckpoint
from llama31.checkpoint.formats.safetensors_header import ITEM_BYTES
from llama31.common.errors import UserError
from llama31.common.files import failures_named, publish, sync
from llama31.common.json_files import load_json, write_json
from llama31.data.tokenizer import TOKENIZER_FILE

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FILE_BYTES = 1 << 30  # of a file's tensors, unless one alone has more

Place = tuple[str, int]  # one of Megatron's keys, and the layer


def write(source: NemoCheckpoint, destination: Path, done: Callable[[int], object]) -> None:
    """Writes the model into the directory `destination`; calls `done` with the bytes of each file."""
    _write_weights(source, destination, done)
    with failures_named(destination):
        for file in source.small_files():
            shutil.copyfile(file, destination / file.name)
        _write_config(source, destination)


def _write_weights(source: NemoCheckpoint, destination: Path, done: Callable[[int], object]) -> None:
    sizes = _sizes(source)
    groups = list(_groups(sizes))
    weight_map: dict[str, str] = {}
    for number, places in enumerate(groups, start=1):
        name = WEIGHTS if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        if not (destination / name).exists():
            _write_file(source, places, destination / name)
        done(sum(sizes[place] for place in places))
        weight_map |= {
            parameter: name for place in places for parameter in parameter_mapping.hugging_face_names(*place)
        }
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(destination / INDEX, index)


def _sizes(source: NemoCheckpoint) -> dict[Place, int]:
    """Bytes of each of Megatron's parameters, without padding, in the order in which Hugging Face has them."""
    shapes = source.architecture.shapes()
    sizes: dict[Place, int] = {}
    for name, shape in shapes.items():
        key, layer, _ = parameter_mapping.megatron_key(name)
        sizes[key, layer] = sizes.get((key, layer), 0) + math.prod(shape) * ITEM_BYTES[source.dtype(key)]
    return sizes


def _groups(sizes: dict[Place, int]) -> Iterator[list[Place]]:
    """What goes into each file."""
    group: list[Place] = []
    filled = 0
    for place, size in sizes.items():
        if group and filled + size > FILE_BYTES:
            yield group
            group, filled = [], 0
        group.append(place)
        filled += size
    yield group


def _write_file(source: NemoCheckpoint, places: list[Place], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for key, layer in places:
        parts = parameter_mapping.split(key, source.tensor(key, layer), source.architecture)
        tensors |= dict(
            zip(parameter_mapping.hugging_face_names(key, layer), (part.clone() for part in parts), strict=True)
        )
    partial = path.parent / NOTES / path.name  # safetensors makes files of its own beside it, which a kill leaves
    with failures_named(path):
        partial.parent.mkdir(exist_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(tensors, partial, metadata={"format": "pt"})
        except SafetensorError as error:
            raise UserError(f"{path}: {error}") from error  # such as a full disk
        partial.chmod(mode)  # which safetensors narrows to the owner
        sync(partial)
        publish(partial, path)


def _write_config(source: NemoCheckpoint, destination: Path) -> None:
    """config.json; the ids of special tokens are those for generation, or else the tokenizer's."""
    tokens: dict[str, Any] = {}
    if (destination / TOKENIZER_FILE).exists():
        try:
            tokenizer = AutoTokenizer.from_pretrained(destination)
        except ValueError as error:  # one that needs code of its own, for instance
            line = str(error).splitlines()[0]
            raise UserError(f"{source.tokenizer}: transformers cannot load the tokenizer: {line}") from error
        tokens = {name: getattr(tokenizer, name) for name in TOKEN_IDS}
    if (destination / GENERATION_CONFIG).exists():
        generation = load_json(destination / GENERATION_CONFIG)
        tokens |= {name: generation[name] for name in TOKEN_IDS if name in generation}
    fields = {**source.architecture.hugging_face(), **tokens, "dtype": source.dtype(parameter_mapping.EMBEDDING)}
    LlamaConfig(architectures=["LlamaForCausalLM"], **fields).save_pretrained(destination)
