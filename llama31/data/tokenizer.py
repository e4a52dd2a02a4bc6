"""What a plan must know of a Hugging Face tokenizer, without loading it: standard library and orjson only.

The ids are those of tokenizer.json. The other files of the directory name special tokens among them, for generation and
for exports; the ranks get it in a form that adds nothing (`llama31.data.run_tokenizer`).
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from llama31.common.errors import UserError
from llama31.common.files import failures_named, sha256_of
from llama31.data.tokenizer_ids import deciding, unknown

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
NUMBERED = "added_tokens_decoder"  # entry that repeats tokenizer.json's added_tokens
LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
"""Entries that name several special tokens, in a list or by names: of transformers 4, of both, of transformers 5."""


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
    return 1 + max(vocabulary(tokenizer_dir).values())


def vocabulary(tokenizer_dir: str | Path) -> dict[str, int]:
    """All tokens with their ids: the model's and the added ones. Raises UserError as `vocabulary_size`."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        content = _content(path)
        entries = content["model"]["vocab"]
        if not isinstance(entries, dict):  # of Unigram models: [token, score], whose positions are the ids
            entries = {token: number for number, (token, _) in enumerate(entries)}
        found = {**entries, **{token["content"]: token["id"] for token in content["added_tokens"]}}
        if not found or not all(isinstance(number, int) for number in found.values()):
            raise ValueError("no ids")
        return found


@contextmanager
def _format_named(path: Path) -> Iterator[None]:
    """Turn what follows from JSON of another shape into a UserError of one line that names `path`."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not of the format of Hugging Face's tokenizers library ({error!r})") from error


def _content(path: Path) -> Any:
    try:
        return _parsed(path, *_state(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def _state(path: Path) -> tuple[int, int]:
    """Time of the last change, and size: a file is read again where they are others."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _parsed(path: Path, _mtime: int, _size: int) -> Any:
    """A tokenizer's JSON, which takes 0.2 s to read; there are four files of a tokenizer."""
    return orjson.loads(path.read_bytes())


@lru_cache(maxsize=2)
def _hashed(path: Path, _mtime: int, _size: int) -> str:
    """SHA-256 of what decides ids, which takes 0.1 s."""
    return hashlib.sha256(orjson.dumps(deciding(_content(path)), option=orjson.OPT_SORT_KEYS)).hexdigest()


def named_tokens(tokenizer_dir: str | Path) -> dict[str, str]:
    """What tokenizer_config.json, or else special_tokens_map.json, calls eos_token, bos_token and so on.

    Those of LISTS are called by the list's name and their number. Empty where neither
    file is there. Raises UserError where one is not what it should be.
    """
    directory = Path(tokenizer_dir)
    return {**_named_in(directory / SPECIAL_TOKENS_FILE), **_named_in(directory / CONFIG_FILE)}


def _named_in(path: Path) -> dict[str, str]:
    """What one file calls its special tokens; nothing where it is not there."""
    names: dict[str, str] = {}
    if path.is_file():
        with _format_named(path):
            for name, value in _content(path).items():
                names.update(_named(name, value))
    return names


def _named(name: str, value: Any) -> dict[str, str]:
    """The tokens of one entry; none where it is not about special tokens."""
    if name in LISTS:
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
    return added_tokens(tokenizer_dir).get(named.get("eos_token", named.get("sep_token", "")), {}).get("id")


def added_tokens(tokenizer_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The added_tokens of tokenizer.json, each by its text. Raises UserError as `vocabulary_size`."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        return {token["content"]: token for token in _content(path)["added_tokens"]}


def configuration(tokenizer_dir: str | Path) -> dict[str, Any]:
    """What tokenizer_config.json holds; empty where it is not there. Raises UserError where it is no JSON object."""
    path = Path(tokenizer_dir) / CONFIG_FILE
    if not path.is_file():
        return {}
    with _format_named(path):
        return dict(_content(path).items())


def problems(tokenizer_dir: str | Path) -> list[str]:
    """Lines on what no run could make right: unknown parts, ids with gaps, tokens that have no id.

    Raises UserError as `vocabulary_size` and `named_tokens`.
    """
    ids, file = vocabulary(tokenizer_dir), tokenizer_file(tokenizer_dir)
    found = [
        f"{file}: {part} of type {kind}, which the pinned tokenizers library does not know; save it with that one"
        for part, kind in unknown(_content(file))
    ]
    if (number := len(set(ids.values()))) != len(ids) or {min(ids.values()), max(ids.values())} != {0, number - 1}:
        found.append(
            f"{file}: has {len(ids):,} tokens and ids from {min(ids.values())} to "
            f"{max(ids.values()):,}; a model has a row for each id where those of the tokens are 0 to their number - 1"
        )
    for path, token, number in _numbered(Path(tokenizer_dir)):
        if ids.get(token) != number:
            found.append(f"{path}: token {number} {token!r} is not as in {TOKENIZER_FILE}'s added_tokens")
    for token in sorted(set(named_tokens(tokenizer_dir).values()) - ids.keys()):
        found.append(_not_added(tokenizer_dir, token))  # transformers would give it an id at the vocabulary's end
    return found


def _numbered(directory: Path) -> Iterator[tuple[Path, str, int]]:
    """Each token that another file than tokenizer.json gives an id: that file, the token, the id."""
    config = directory / CONFIG_FILE
    with _format_named(config):
        for number, token in configuration(directory).get(NUMBERED, {}).items():
            yield config, _token(token), int(number)
    if (path := directory / ADDED_TOKENS_FILE).is_file():
        with _format_named(path):
            for content, number in _content(path).items():
                yield path, content, number


def contradictions(tokenizer_dir: str | Path) -> list[str]:
    """Lines on where transformers, by the configuration, would not make of a text what tokenizer.json says.

    A run reads ids, so that to it `problems` alone matter.
    """
    found, path, config = problems(tokenizer_dir), Path(tokenizer_dir) / CONFIG_FILE, configuration(tokenizer_dir)
    if found:
        return found
    if config.get("split_special_tokens"):
        found.append(f"{path}: split_special_tokens=true: NeMo's data has special tokens as single ids; false works")
    space, prefix = bool(config.get("add_prefix_space")), add_prefix_space(tokenizer_dir)
    if config and prefix not in (None, space):
        found.append(f"{path}: add_prefix_space={space} is not what {TOKENIZER_FILE} says; {not space} is")
    known = added_tokens(tokenizer_dir)
    for number, token in config.get(NUMBERED, {}).items():
        if {**token, "id": int(number)} != known.get(token["content"]):
            found.append(f"{path}: token {number} {token['content']!r} is not as in {TOKENIZER_FILE}'s added_tokens")
    # transformers would cut it out of texts where it is an ordinary entry
    ordinary = sorted(set(named_tokens(tokenizer_dir).values()) - known.keys())
    return [*found, *(_not_added(tokenizer_dir, token) for token in ordinary)]


def _not_added(tokenizer_dir: str | Path, token: str) -> str:
    path = Path(tokenizer_dir) / CONFIG_FILE
    if token not in _named_in(path).values():
        path = path.with_name(SPECIAL_TOKENS_FILE)
    return (
        f"{path}: names {token!r} as a special token, which is not among {TOKENIZER_FILE}'s added_tokens; remove "
        "that entry, or get the tokenizer again"
    )


def add_prefix_space(tokenizer_dir: str | Path) -> bool | None:
    """What tokenizer.json says of a space before a text; None where it does not, and transformers cannot change it."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        found = (_content(path).get("pre_tokenizer") or {}).get("add_prefix_space")
        return None if found is None else bool(found)


def fingerprint(tokenizer_dir: str | Path) -> str:
    """SHA-256, in hexadecimal, of what in tokenizer.json decides ids: the same where it was only saved again.

    Raises UserError as `vocabulary_size`.
    """
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path), failures_named(path):
        return _hashed(path, *_state(path))


def hashes(tokenizer_dir: str | Path) -> tuple[str, str]:
    """What this tokenizer may have on record: its `fingerprint`, or SHA-256 of tokenizer.json, as once recorded.

    Raises UserError as `vocabulary_size`.
    """
    return fingerprint(tokenizer_dir), sha256_of(tokenizer_file(tokenizer_dir))
