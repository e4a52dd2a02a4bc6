"""Tokenizer directories as several versions and classes of transformers saved them.

saved_tokenizers.json holds, by class or way of saving and version, what `save_pretrained` wrote beside tokenizer.json
for the tokenizer that `make` starts from, and of tokenizer.json itself what the class changed.
"""

import json
from pathlib import Path
from typing import Any

import tiny
from tokenizers import AddedToken

from dev import demo_tokenizer

SAVED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())
TOKENIZER = "tokenizer.json"
VOCABULARY = 400
OF_OTHER_CLASSES = ("<unk>", "<|endoftext|>")  # special tokens that Llama's and GPT-2's classes would add


def original(directory: Path) -> Path:
    """The tokenizer that all were loaded from: of Llama 3's kind, saved by the tokenizers library."""
    tokenizer = demo_tokenizer.train(tiny.texts(), VOCABULARY)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in OF_OTHER_CLASSES])
    demo_tokenizer.save(tokenizer, directory)
    return directory


def make(kind: str, source: Path, directory: Path) -> Path:
    """Writes `source` as it was saved in one of SAVED's ways."""
    directory.mkdir(parents=True)
    content = json.loads((source / TOKENIZER).read_text())
    for file, saved in SAVED[kind].items():
        if file == TOKENIZER:
            model = {**content["model"], **saved.get("model", {})}
            content = {**content, **saved, "model": model}
        else:
            (directory / file).write_text(json.dumps(saved))
    (directory / TOKENIZER).write_text(json.dumps(content))
    return directory


def as_transformers_5_saves_it(source: Path, directory: Path) -> Path:
    """A copy of a tokenizer with the configuration that transformers 5 writes, which 4 cannot load."""
    directory.mkdir(parents=True)
    (directory / TOKENIZER).write_bytes((source / TOKENIZER).read_bytes())
    config = {**SAVED["extra-list of 5.24.0"]["tokenizer_config.json"], "extra_special_tokens": ["<|end_of_text|>"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def edit(directory: Path, **fields: Any) -> Path:
    """Changes fields of tokenizer_config.json; None removes one."""
    file = directory / "tokenizer_config.json"
    changed = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
    return directory


def change_ids(directory: Path) -> Path:
    """Makes another tokenizer of as many ids: texts are put together in another order."""
    file = directory / TOKENIZER
    content = json.loads(file.read_text())
    content["model"]["merges"].reverse()
    file.write_text(json.dumps(content))
    return directory


def save_again(directory: Path) -> Path:
    """Writes tokenizer.json in another form: merges as strings instead of pairs or the reverse, keys in another order,
    indented."""
    file = directory / TOKENIZER
    content = json.loads(file.read_text())
    model = content["model"]
    model["merges"] = [merge.split(" ") if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    file.write_text(json.dumps(dict(reversed(content.items())), indent=2))
    return directory
