"""What a plan must know of a Hugging Face tokenizer, without loading it: standard library and orjson only."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from llama31.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
CLASSES = ("PreTrainedTokenizerFast", "GPT2TokenizerFast", "GPT2Tokenizer")
"""transformers' classes that take tokenizer.json as it is, but for what `contradictions` looks at."""


def tokenizer_file(tokenizer_dir: str | Path) -> Path:
    """DIR/tokenizer.json. Raises UserError where the directory or the file is missing."""
    directory = Path(tokenizer_dir)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such tokenizer directory")
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise UserError(f"{directory}: holds no {TOKENIZER_FILE}; a Hugging Face tokenizer directory has one")
    return path


def vocabulary_size(tokenizer_dir: str | Path) -> int:
    """Largest id + 1 over the model's vocabulary and the added tokens.

    Raises UserError where the directory or its tokenizer.json is missing, or the file is of an unknown format.
    """
    path = tokenizer_file(tokenizer_dir)
    content = _content(path)
    try:
        size = 1 + max(*_vocabulary_ids(content["model"]["vocab"]), *(token["id"] for token in content["added_tokens"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not of the format of Hugging Face's tokenizers library ({error!r})") from error
    assert isinstance(size, int)
    return size


def _content(path: Path) -> Any:
    try:
        status = path.stat()
        return _parsed(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error


@lru_cache(maxsize=2)
def _parsed(path: Path, _mtime: int, _size: int) -> Any:
    """A tokenizer's JSON takes 0.2 s to read; it is read again where the file was changed."""
    return orjson.loads(path.read_bytes())


def _vocabulary_ids(vocabulary: Any) -> Any:
    """Ids of a model's vocabulary: {token: id}, or for Unigram models a list whose positions are the ids."""
    return vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))


def named_tokens(tokenizer_dir: str | Path) -> dict[str, str]:
    """What tokenizer_config.json, or else special_tokens_map.json, calls eos_token, bos_token and so on.

    Empty where neither file is there. Raises UserError where one is not what it should be.
    """
    names: dict[str, str] = {}
    for file in ("special_tokens_map.json", CONFIG_FILE):
        path = Path(tokenizer_dir) / file
        try:
            entries = orjson.loads(path.read_bytes()).items()
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error
        for name, token in entries:
            content = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(content, str):
                names[name] = content
    return names


def contradictions(tokenizer_dir: str | Path) -> list[str]:
    """Lines on where transformers, by tokenizer_config.json, would not do what tokenizer.json says."""
    path = Path(tokenizer_dir) / CONFIG_FILE
    if not path.is_file():
        return []
    config, content = _content(path), _content(tokenizer_file(tokenizer_dir))
    found = []
    name = config.get("tokenizer_class", CLASSES[0])
    if name not in CLASSES:
        found.append(f"{path}: tokenizer_class={name} may not take {TOKENIZER_FILE} as it is; {CLASSES[0]} does")
    if config.get("split_special_tokens"):
        found.append(f"{path}: split_special_tokens=true: NeMo's data has special tokens as single ids; false works")
    space = bool(config.get("add_prefix_space"))
    if ((content.get("pre_tokenizer") or {}).get("add_prefix_space", space)) != space:
        found.append(f"{path}: add_prefix_space={space} is not what {TOKENIZER_FILE} says; {not space} is")
    known = {token["content"]: token for token in content["added_tokens"]}
    for number, token in config.get("added_tokens_decoder", {}).items():
        if {**token, "id": int(number)} != known.get(token["content"]):
            found.append(f"{path}: token {number} {token['content']!r} is not as in {TOKENIZER_FILE}'s added_tokens")
    return found


def fingerprint(tokenizer_dir: str | Path) -> str:
    """SHA-256 of tokenizer.json, in hexadecimal. Raises UserError where it is missing or cannot be read."""
    path = tokenizer_file(tokenizer_dir)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
