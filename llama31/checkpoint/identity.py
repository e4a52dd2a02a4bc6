"""What a run is, so that it can be told from another when it goes on: settings, model, tokenizer, data."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.config.model_sizes import SIZES
from llama31.data import token_manifest, tokenizer
from llama31.data.inputs import Data
from llama31.settings import Settings, shown, to_dict

# Without the first two a checkpoint cannot be read: they are its shape. The third is where the run began. By the fourth
# Megatron groups the parameters in the optimizer's state.
FIXED = ("size", "precision", "from_hf", "decay_norms")
BEFORE = {"decay_norms": False}
"""Values of settings that checkpoints of older versions do not name."""
CHANGEABLE = (
    "seq_length", "gbs", "max_lr", "min_lr", "warmup_steps", "max_steps", "samples_available", "eval_every",
    "eval_samples", "start_eval_at", "target", "train_parts", "seeds",
)  # fmt: skip
TOKENIZER, DATA = "tokenizer_path", "preprocessed_path"
ALLOWED = (*CHANGEABLE, TOKENIZER, DATA)
"""Settings that --allow-change can name, in lower case; layout, micro batches and what saves memory or time is free."""


def identity(settings: Settings, data: Data) -> dict[str, Any]:
    """What must stay the same while a run goes on, by the setting that it comes from."""
    computed = {"min_lr": settings.end_lr, "warmup_steps": settings.warmup, "from_hf": int(settings.from_hf)}
    values = {**to_dict(settings), **computed}
    return {
        **{name: values[name] for name in (*FIXED, *CHANGEABLE)},
        "shape": {**asdict(SIZES[settings.size]), "vocab_size": data.vocab_size},
        TOKENIZER: tokenizer.fingerprint(settings.tokenizer_path),
        DATA: token_files(data),
    }


def current(recorded: str | None, settings: Settings) -> str | None:
    """A tokenizer's hash on record as it is recorded now, if it is of TOKENIZER_PATH; else itself."""
    ours = tokenizer.hashes(settings.tokenizer_path)
    return ours[0] if recorded in ours else recorded


def token_files(data: Data) -> dict[str, str]:
    """Return the fingerprint of each token file by its name."""
    return {file.prefix.name: _data_file(file) for file in (*data.train, data.validation)}


def _data_file(file: Any) -> str:
    """A token file by its manifest, or where it has none by its counts."""
    path = token_manifest.manifest_path(file.prefix)
    if not path.is_file():
        return f"{file.documents} documents, {file.tokens} tokens"
    return sha256_of(path)


def changes(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], allowed: Collection[str]
) -> tuple[list[str], list[str]]:
    """What differs from the run's own: a line for each change, those allowed and those that are not."""
    theirs = {**BEFORE, **theirs}
    granted, refused = [], []
    for name in (*FIXED, "shape", *ALLOWED):
        if theirs.get(name) == ours[name]:
            continue
        if name in CHANGEABLE:
            what = f"{name.upper()}={shown(ours[name])}: the run has {name.upper()}={shown(theirs.get(name))}"
        elif name == DATA:
            files = [file for file, of in ours[DATA].items() if (theirs.get(DATA) or {}).get(file) != of]
            what = f"{name.upper()}: {', '.join(files) or 'fewer files'}: not the data that the run began with"
        elif name == TOKENIZER:
            what = f"{name.upper()}: not the tokenizer that the run began with"
        elif name == "shape":
            what = f"the model is {_shape(ours[name])}: the run's is {_shape(theirs.get(name) or {})}"
        else:
            what = f"{name.upper()}={shown(ours[name])}: the run has {name.upper()}={shown(theirs.get(name))}"
            what += ", which cannot change"
        if name in allowed:
            granted.append(f"{what}; changed by --allow-change {name.upper()}")
        else:
            refused.append(f"{what}; --allow-change {name.upper()} goes on all the same" if name in ALLOWED else what)
    return granted, refused


def _shape(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in shape.items())


def names_allowed(names: Collection[str]) -> list[str]:
    """The fields that --allow-change names, in lower case. Raises UserError for one that cannot change."""
    for given in names:
        if given.lower() not in ALLOWED:
            raise UserError(f"--allow-change {given}: not one of {', '.join(name.upper() for name in ALLOWED)}")
    return [given.lower() for given in names]
