"""Identity of a run (settings, model, tokenizer, data), so that a checkpoint of another run is not resumed."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.config import low_precision
from llama31.config.model_sizes import SIZES
from llama31.data import run_tokenizer, token_manifest
from llama31.data.inputs import Data
from llama31.data.token_file import TokenFile
from llama31.settings import Settings, shown, to_dict

ARITHMETIC = (*low_precision.FP8, *low_precision.LAYERS)
# size and precision determine the shapes in a checkpoint, the other types the arithmetic, from_hf the initial weights,
# decay_norms Megatron's parameter groups in the optimizer's state.
FIXED = ("size", "precision", "grad_reduce_dtype", *ARITHMETIC, "from_hf", "decay_norms")
OLDER_DEFAULTS = {"decay_norms": False, "grad_reduce_dtype": "fp32"}
"""Settings missing from checkpoints of older versions, with the values in effect then."""
CHANGEABLE = (
    "seq_length", "gbs", "max_lr", "min_lr", "warmup_steps", "max_steps", "samples_available", "eval_every",
    "eval_samples", "start_eval_at", "target", "train_parts", "seeds",
)  # fmt: skip
TOKENIZER, DATA = "tokenizer_path", "preprocessed_path"
ALLOWED = (*CHANGEABLE, TOKENIZER, DATA)
"""Fields that --allow-change can name. Layout, micro batches, memory and speed settings can always change."""


def identity(settings: Settings, data: Data) -> dict[str, Any]:
    """Return what must not change when a run is resumed, keyed by setting."""
    computed = {
        "min_lr": settings.end_lr,
        "warmup_steps": settings.warmup,
        "from_hf": int(settings.from_hf),
        "fp8_param_gather": int(low_precision.param_gather(settings)),
    }
    unused = {name: None for name in ARITHMETIC if name not in low_precision.applicable(settings)}
    values = {**to_dict(settings), **computed, **unused}
    return {
        **{name: values[name] for name in (*FIXED, *CHANGEABLE)},
        "shape": {**asdict(SIZES[settings.size]), "vocab_size": data.vocab_size},
        TOKENIZER: run_tokenizer.fingerprint(settings),
        DATA: token_files(data),
    }


def current_tokenizer_hash(recorded: str | None, settings: Settings) -> str | None:
    """Return the fingerprint of TOKENIZER_PATH if `recorded` is a hash of it of either kind; else `recorded`."""
    ours = run_tokenizer.hashes(settings)
    return ours[0] if recorded in ours else recorded


def token_files(data: Data) -> dict[str, str]:
    """Return the fingerprint of each token file by its name."""
    return {file.prefix.name: _data_file(file) for file in (*data.train, data.validation)}


def _data_file(file: TokenFile) -> str:
    """Return the hash of a token file's manifest; without a manifest, its numbers of documents and tokens."""
    path = token_manifest.manifest_path(file.prefix)
    return sha256_of(path) if path.is_file() else f"{file.documents} documents, {file.tokens} tokens"


def changes(
    recorded: Mapping[str, Any], ours: Mapping[str, Any], allowed: Collection[str]
) -> tuple[list[str], list[str]]:
    """Compare two identities. Return a line for each change that is allowed, and for each that is not."""
    recorded = {**OLDER_DEFAULTS, **recorded}
    accepted, refused = [], []
    for name in (*FIXED, "shape", *ALLOWED):
        if recorded.get(name) == ours[name]:
            continue
        if name == DATA:
            before = recorded.get(DATA) or {}
            files = [file for file, content in ours[DATA].items() if before.get(file) != content]
            change = f"{name.upper()}: {', '.join(files) or 'fewer files'}: not the data that the run started with"
        elif name == TOKENIZER:
            change = f"{name.upper()}: not the tokenizer that the run started with"
        elif name == "shape":
            change = f"the model is {_shape(ours[name])}: the run's is {_shape(recorded.get(name) or {})}"
        else:
            change = f"{name.upper()}={shown(ours[name])}: the run has {name.upper()}={shown(recorded.get(name))}"
            change += ", which cannot change" if name in FIXED else ""
        if name in allowed:
            accepted.append(f"{change}; changed by --allow-change {name.upper()}")
        else:
            refused.append(f"{change}; --allow-change {name.upper()} resumes it anyway" if name in ALLOWED else change)
    return accepted, refused


def _shape(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shape.items())


def parse_allowed(names: Collection[str]) -> list[str]:
    """Return the fields that --allow-change names, in lower case. Raises UserError for a name not in ALLOWED."""
    for given in names:
        if given.lower() not in ALLOWED:
            raise UserError(f"--allow-change {given}: not one of {', '.join(name.upper() for name in ALLOWED)}")
    return [given.lower() for given in names]
