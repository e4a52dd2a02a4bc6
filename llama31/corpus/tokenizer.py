"""What a plan must know of a Hugging Face tokenizer, without loading it: standard library and orjson only."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _format_named(path):
        content = _content(path)
        size = 1 + max(*_vocabulary_ids(content["model"]["vocab"]), *(token["id"] for token in content["added_tokens"]))
        assert isinstance(size, int)
        return size


@contextmanager
def _format_named(path: Path) -> Iterator[None]:
    """Turn what follows from JSON of another shape into a UserError of one line that names `path`."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not of the format of Hugging Face's tokenizers library ({error!r})") from error


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

    Those of a list, as additional_special_tokens, are called by the list's name and their number. Empty where neither
    file is there. Raises UserError where one is not what it should be.
    """
    names: dict[str, str] = {}
    for file in ("special_tokens_map.json", CONFIG_FILE):
        path = Path(tokenizer_dir) / file
        if path.is_file():
            with _format_named(path):
                for name, value in _content(path).items():
                    names.update(_named(name, value))
    return names


def _named(name: str, value: Any) -> dict[str, str]:
    """The tokens of one entry; none where it is not about special tokens."""
    if name in ("additional_special_tokens", "extra_special_tokens"):
        several = value.items() if isinstance(value, dict) else enumerate(value or ())
        return {f"{name}[{key}]": _token(token) for key, token in several}
    return {name: _token(value)} if name.endswith("_token") and isinstance(value, str | dict) else {}


def _token(value: Any) -> str:
    """A token that is given as itself, or with how it is to be used."""
    content = value["content"] if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise TypeError(f"{content!r} is not a token")
    return content


def end_of_text(tokenizer_dir: str | Path) -> int | None:
    """Id of the token that NeMo's AutoTokenizer takes as the end of a text; None where the tokenizer names none."""
    named = named_tokens(tokenizer_dir)
    wanted = named.get("eos_token", named.get("sep_token"))
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        found: dict[str, int] = {token["content"]: token["id"] for token in _content(path)["added_tokens"]}
    return found.get(wanted) if wanted else None


def contradictions(tokenizer_dir: str | Path) -> list[str]:
    """Lines on where transformers, by tokenizer_config.json, would not do what tokenizer.json says."""
    path = Path(tokenizer_dir) / CONFIG_FILE
    if not path.is_file():
        return []
    with _format_named(path):
        return _contradictions(path, _content(path), _content(tokenizer_file(tokenizer_dir)))


def _contradictions(path: Path, config: dict[str, Any], content: dict[str, Any]) -> list[str]:
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
    for token in sorted(set(named_tokens(path.parent).values()) - known.keys()):
        # transformers would add it at the vocabulary's end, or cut it out of texts where it is an ordinary entry
        found.append(f"{path}: names {token!r} as a special token, which is not among {TOKENIZER_FILE}'s added_tokens")
    return found


def fingerprint(tokenizer_dir: str | Path) -> str:
    """SHA-256 of tokenizer.json, in hexadecimal. Raises UserError where it is missing or cannot be read."""
    path = tokenizer_file(tokenizer_dir)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
