"""Check a checkpoint before a run starts from its weights only (FROM_HF). Needs only PyYAML."""

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

# Weights do not depend on these: Megatron computes RoPE for any length, and nothing is initialized.
IGNORED = ("max_position_embeddings", "initializer_range")
COMMON = f"{nemo.WEIGHTS}/common.pt"


def check(settings: Settings, data: Data) -> None:
    """Raise UserError, with a line for each problem, unless MODEL_CKPT is complete and matches the run's model.

    Reads the configuration and the tables of contents, not the weights.
    """
    path = Path(settings.model_ckpt)
    try:
        found = nemo.inspect(path)
        ours = architecture.of_size(settings.size, data.vocab_size, settings.seq_length)
        problems = [*_differences(found.architecture, ours, settings), *_misfits(path, found.tokenizer, settings)]
        if problems:
            raise UserError(problems)
    except UserError as error:
        lines = [line.removeprefix(str(path)).lstrip("/: ") for line in error.lines]
        raise UserError([f"MODEL_CKPT={path}: {line}" for line in lines]) from error


def _differences(theirs: Architecture, ours: Architecture, settings: Settings) -> Iterator[str]:
    """Yield a line for each number in which a checkpoint's model differs from the run's.

    The embeddings need a row for each id of the tokenizer. They may have as many more as Megatron's padding adds:
    no token uses those, and Megatron loads embeddings with other padding.
    """
    found, wanted = _flat(asdict(theirs)), _flat(asdict(ours))
    for name in dict.fromkeys((*wanted, *found)):
        if name not in (*IGNORED, "vocab_size") and found.get(name) != wanted.get(name):
            yield f"has {name} {found.get(name)}, SIZE={settings.size} has {wanted.get(name)}"
    padded = embedding_rows(ours.vocab_size, settings.tensor_parallel_size)
    if not ours.vocab_size <= theirs.vocab_size <= padded:
        source = "MOCK_DATA=1" if settings.mock_data else f"TOKENIZER_PATH={settings.tokenizer_path}"
        yield (
            f"has vocab_size {theirs.vocab_size}, {source} has {ours.vocab_size} ids "
            f"({padded} rows with Megatron's padding)"
        )


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested fields to OUTER.INNER; drop those that are None."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= (
            {f"{name}.{inner}": field for inner, field in value.items()} if isinstance(value, dict) else {name: value}
        )
    return {name: value for name, value in flat.items() if value is not None}


def _misfits(path: Path, their_tokenizer: Path, settings: Settings) -> Iterator[str]:
    """Yield a line if Megatron's common file is missing, and one if the checkpoint has another tokenizer."""
    if not (path / COMMON).is_file():
        yield f"{COMMON} is missing; Megatron cannot load weights without it"
    if not settings.mock_data and (their_tokenizer / tokenizer.TOKENIZER_FILE).is_file():
        ours = tokenizer.fingerprint(settings.tokenizer_path)
        if (theirs := tokenizer.fingerprint(their_tokenizer)) != ours:
            yield (
                f"has another tokenizer (SHA-256 of tokenizer.json {theirs[:12]}..., "
                f"TOKENIZER_PATH={settings.tokenizer_path} {ours[:12]}...); use the one in {their_tokenizer}"
            )
