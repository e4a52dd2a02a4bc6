"""What speaks against starting from a checkpoint's weights alone (FROM_HF). Standard library and PyYAML alone."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama31.checkpoint.formats import architecture, nemo
from llama31.checkpoint.formats.architecture import Architecture
from llama31.common.errors import UserError
from llama31.config.model_sizes import embedding_rows
from llama31.data import tokenizer
from llama31.data.inputs import Data
from llama31.settings import Settings

# What weights do not depend on: Megatron computes RoPE for any length, and nothing is initialized.
FREE = ("max_position_embeddings", "initializer_range")
COMMON = f"{nemo.WEIGHTS}/common.pt"


def check(settings: Settings, data: Data) -> None:
    """Raises UserError, with a line for each thing wrong, unless MODEL_CKPT is whole and of the run's own model.

    It reads the configuration and the tables of contents, never the weights themselves.
    """
    path = Path(settings.model_ckpt)
    try:
        found = nemo.look(path)
        ours = architecture.of_size(settings.size, data.vocab_size, settings.seq_length)
        problems = [*_differences(found.architecture, ours, settings), *_others(path, found.tokenizer, settings)]
        if problems:
            raise UserError(problems)
    except UserError as error:
        lines = [line.removeprefix(str(path)).lstrip("/: ") for line in error.lines]
        raise UserError([f"MODEL_CKPT={path}: {line}" for line in lines]) from error


def _differences(theirs: Architecture, ours: Architecture, settings: Settings) -> Iterator[str]:
    """A line for each number in which a checkpoint's model is not the run's.

    All ids of the tokenizer need their rows in the embeddings. More rows are right as far as Megatron pads the run's
    own: no token has them, and Megatron loads embeddings of another padding.
    """
    found, wanted = _flat(asdict(theirs)), _flat(asdict(ours))
    for name in dict.fromkeys((*wanted, *found)):
        if name not in (*FREE, "vocab_size") and found.get(name) != wanted.get(name):
            yield f"has {name} {found.get(name)}, SIZE={settings.size} has {wanted.get(name)}"
    padded = embedding_rows(ours.vocab_size, settings.tensor_parallel_size)
    if not ours.vocab_size <= theirs.vocab_size <= padded:
        yield (
            f"has vocab_size {theirs.vocab_size}, TOKENIZER_PATH={settings.tokenizer_path} has {ours.vocab_size} ids "
            f"({padded} rows with Megatron's padding)"
        )


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, those within another one by both names."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= {f"{name}.{inner}": of for inner, of in value.items()} if isinstance(value, dict) else {name: value}
    return {name: value for name, value in flat.items() if value is not None}


def _others(path: Path, theirs: Path, settings: Settings) -> Iterator[str]:
    """Lines on what belongs to the weights: Megatron's common file, and the tokenizer if the checkpoint has one."""
    if not (path / COMMON).is_file():
        yield f"{COMMON} is not there; Megatron loads no weights without it"
    if (theirs / tokenizer.TOKENIZER_FILE).is_file():
        here = tokenizer.fingerprint(settings.tokenizer_path)
        if (its := tokenizer.fingerprint(theirs)) != here:
            yield (
                f"has another tokenizer (SHA-256 of tokenizer.json {its[:12]}..., "
                f"TOKENIZER_PATH={settings.tokenizer_path} {here[:12]}...); use the one in {theirs}"
            )
