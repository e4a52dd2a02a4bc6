"""Hugging Face -> NeMo: Megatron's own save, with each tensor loaded when it is written.

Megatron plans the checkpoint from a model without weights. Then each tensor is read from the safetensors, converted and
written, so that only one is in memory. Each file gets its name once complete, so a resumed run skips it.
"""

import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import fiddle
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies.base import SaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.common.tokenizers import AutoTokenizer
from nemo.lightning import get_vocab_size
from nemo.lightning.io.pl import TrainerContext
from torch.distributed.checkpoint import SavePlan
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, DEFAULT_SUFFIX, _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.nn.functional import pad

from llama31.checkpoint.convert import megatron_model
from llama31.checkpoint.formats import dcp_metadata, parameter_mapping
from llama31.checkpoint.formats.hugging_face import HuggingFaceCheckpoint, small_files
from llama31.checkpoint.formats.nemo import CONTEXT, NOTES, TOKENIZER, WEIGHTS
from llama31.common.direct_file import DirectWriter
from llama31.common.files import atomic_writer, failures_named, published_when_complete
from llama31.data import run_tokenizer
from llama31.model import vocabulary

CONTENT = {"singleton_local_shards": False}  # tells Megatron's load how the keys were made


def write(source: HuggingFaceCheckpoint, destination: Path, on_write: Callable[[int], object]) -> None:
    """Write context and weights into `destination`. Calls `on_write` with the bytes of each tensor."""
    _write_context(source, destination)
    _write_weights(source, destination / WEIGHTS, on_write)


def _vocabulary(source: HuggingFaceCheckpoint) -> int | None:
    """Return the vocabulary size for the model's configuration; None if the tokenizer has as many ids.

    With None, NeMo pads the vocabulary for each layout, so that every tensor-parallel size works.
    """
    size = source.architecture.vocab_size
    return None if source.tokenizer_ids == size else size


def _write_weights(source: HuggingFaceCheckpoint, directory: Path, on_write: Callable[[int], object]) -> None:
    llama = source.architecture
    config = megatron_model.nemo_config(llama, torch.float32)
    built = fiddle.build(config)
    rows = _vocabulary(source) or get_vocab_size(built, llama.vocab_size, built.make_vocab_size_divisible_by)
    model = megatron_model.empty_model(config, rows)
    locations = megatron_model.stored_as(model, parameter_mapping.PREFIX)
    if unknown := {key for key, _ in locations.values()} - set(parameter_mapping.megatron_keys(llama)):
        raise ValueError(f"not mapped to a parameter of Hugging Face's: {', '.join(sorted(unknown))}")
    for name, (key, _) in locations.items():
        module, _, parameter = name.rpartition(".")
        dtype = getattr(torch, source.dtype(key))
        setattr(model.get_submodule(module), parameter, torch.nn.Parameter(model.get_parameter(name).to(dtype)))
    directory.mkdir(parents=True, exist_ok=True)
    dist_checkpointing.save(
        {"state_dict": model.sharded_state_dict(prefix=parameter_mapping.PREFIX, metadata=CONTENT)},
        str(directory),
        sharded_strategy=_Strategy(source, on_write),
        content_metadata=CONTENT,
    )


def _write_context(source: HuggingFaceCheckpoint, destination: Path) -> None:
    """Write the model's configuration, in the form that NeMo's `io.load_context` reads, and the tokenizer."""
    config = megatron_model.nemo_config(source.architecture, getattr(torch, source.dtype(parameter_mapping.EMBEDDING)))
    config.vocab_size = _vocabulary(source)
    context, files = destination / CONTEXT, destination / TOKENIZER
    for directory in (context, files):
        shutil.rmtree(directory, ignore_errors=True)  # of an interrupted run
    loaded = _tokenizer(source, files)
    model = llm.LlamaModel(fiddle.build(config), tokenizer=loaded)
    trainer = nl.Trainer(accelerator="cpu", devices=1, strategy=nl.MegatronStrategy(ckpt_async_save=False))
    with failures_named(context):
        TrainerContext(model=model, trainer=trainer, extra={}).io_dump(context, yaml_attrs=["model"])
        if loaded:
            shutil.rmtree(files)  # NeMo has copied them
        else:
            files.rename(context / TOKENIZER)


def _tokenizer(source: HuggingFaceCheckpoint, files: Path) -> AutoTokenizer | None:
    """Write the tokenizer to the directory `files`, in the form that runs use, and load it; None if there is none."""
    if source.tokenizer_ids:
        run_tokenizer.write(source.path, files)
        return vocabulary.load(files, source.path)
    with failures_named(files):
        files.mkdir()
        for file in small_files(source.path):
            shutil.copyfile(file, files / file.name)
    return None


class _Strategy(SaveShardedStrategy):
    """Megatron's strategy for the format torch_dist, but with tensors loaded as they are written."""

    can_handle_sharded_objects = True

    def __init__(self, source: HuggingFaceCheckpoint, on_write: Callable[[int], object]):
        super().__init__("torch_dist", 1)
        self.source = source
        self.on_write = on_write

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        by_key, *_ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, keep_only_main_replica=True)
        # The steps of torch.distributed.checkpoint.save, which hides exceptions raised in it.
        planner = _Planner(self.source)
        planner.set_up_planner(mcore_to_pyt_state_dict(by_key), is_coordinator=True)
        (plan,), table = planner.create_global_plan([planner.create_local_plan()])
        if unused := sorted(self.source.tensors.keys() - planner.used):
            raise ValueError(f"not mapped to a parameter of Megatron's: {', '.join(unused)}")
        written = _write_items(planner.finish_plan(plan).items, planner, Path(checkpoint_dir), self.on_write)
        table.storage_data = dict(written)
        table.version = CURRENT_DCP_VERSION
        with atomic_writer(Path(checkpoint_dir, dcp_metadata.FILE)) as file:
            pickle.dump(table, file)


class _Planner(MCoreSavePlanner):
    """Megatron's planner, with data read from the safetensors."""

    def __init__(self, source: HuggingFaceCheckpoint):
        super().__init__(flatten_state_dict=False)
        self.source = source
        self.used: set[str] = set()
        """Hugging Face parameters in the plan."""

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        for item in plan.items:
            if item.type is not WriteItemType.BYTE_IO:
                self.used.update(self._names(item))
        return plan

    def _names(self, item: WriteItem) -> tuple[str, ...]:
        key, offset = item.index.fqn, item.index.offset
        names = parameter_mapping.hugging_face_names(key, offset[0] if parameter_mapping.is_layered(key) else 0)
        if key.endswith(parameter_mapping.FC1):  # Megatron stores each half of SwiGLU as a chunk
            return names[1:] if offset[1] else names[:1]
        return names

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return the tensor of an item, or the bytes of an object."""
        if write_item.type is WriteItemType.BYTE_IO:
            return super().resolve_data(write_item)
        tensors = [self.source.tensor(name) for name in self._names(write_item)]
        tensor = parameter_mapping.join(write_item.index.fqn, tensors, self.source.architecture)
        if parameter_mapping.is_layered(write_item.index.fqn):
            return tensor.unsqueeze(0)
        missing = write_item.tensor_data.chunk.sizes[0] - tensor.shape[0]
        return pad(tensor, (0, 0, 0, missing)) if missing else tensor


def _write_items(
    items: Iterable[WriteItem], planner: _Planner, directory: Path, on_write: Callable[[int], object]
) -> Iterator[tuple[MetadataIndex, _StorageInfo]]:
    """Write a file for each layer and each parameter outside the layers. Yield where each item is.

    Records the lengths of the items in each file, so that an interrupted conversion can be resumed.
    """
    files: dict[str | int, list[WriteItem]] = {}
    for item in items:
        key, offset = item.index.fqn, item.index.offset
        file = "objects" if offset is None else offset[0] if parameter_mapping.is_layered(key) else key
        files.setdefault(file, []).append(item)
    for number, contents in enumerate(files.values()):
        name = f"__0_{number}{DEFAULT_SUFFIX}"
        note = directory.with_name(NOTES) / f"{name}.json"
        if note.exists():
            lengths = json.loads(note.read_text())
            on_write(sum(lengths))
        else:
            lengths = _write_file(contents, planner, directory / name, on_write)
            with atomic_writer(note) as stream:
                stream.write(json.dumps(lengths).encode())
        for item, end, length in zip(contents, accumulate(lengths), lengths, strict=True):
            yield item.index, _StorageInfo(name, end - length, length)


def _write_file(items: list[WriteItem], planner: _Planner, path: Path, on_write: Callable[[int], object]) -> list[int]:
    """Write items one after another, in the form that torch's readers expect. Return their lengths, bytes."""
    lengths = []
    with published_when_complete(path) as partial, DirectWriter(partial) as file:
        for item in items:
            start = file.tell()
            data = planner.resolve_data(item)
            if isinstance(data, io.BytesIO):
                file.write(data.getbuffer())
            else:
                torch.save(data, file)
            lengths.append(file.tell() - start)
            on_write(lengths[-1])
    return lengths
