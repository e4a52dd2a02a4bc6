"""Read a Hugging Face tokenizer directory without loading the tokenizer. Needs only orjson.

tokenizer.json defines the ids. The other files name special tokens among them, for generation and exports; ranks load
a copy with our own configuration (`llama31.data.run_tokenizer`).
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
from llama31.data.tokenizer_ids import id_parts, unknown

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
NUMBERED = "added_tokens_decoder"  # entry that repeats tokenizer.json's added_tokens
LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
"""Entries that name several special tokens, as a list or by name: of transformers 4, of both, of transformers 5."""


def tokenizer_file(tokenizer_dir: str | Path) -> Path:
    """Return DIR/tokenizer.json. Raises UserError if the directory or the file is missing."""
    directory = Path(tokenizer_dir)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such tokenizer directory")
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise UserError(f"{directory}: holds no {TOKENIZER_FILE}; not a Hugging Face tokenizer directory")
    return path


def vocabulary_size(tokenizer_dir: str | Path) -> int:
    """Return the largest id of the model's vocabulary and the added tokens, + 1.

    Raises UserError if the directory or its tokenizer.json is missing, or if the file has an unknown format.
    """
    return 1 + max(vocabulary(tokenizer_dir).values())


def vocabulary(tokenizer_dir: str | Path) -> dict[str, int]:
    """Return the id of each token, including added tokens. Raises UserError as `vocabulary_size`."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        content = _content(path)
        entries = content["model"]["vocab"]
        if not isinstance(entries, dict):  # Unigram: [token, score], and positions are ids
            entries = {token: number for number, (token, _) in enumerate(entries)}
        found = {**entries, **{token["content"]: token["id"] for token in content["added_tokens"]}}
        if not found or not all(isinstance(number, int) for number in found.values()):
            raise ValueError("no ids")
        return found


@contextmanager
def _format_named(path: Path) -> Iterator[None]:
    """Turn errors from JSON of another shape into a UserError of one line that names `path`."""
    try:
        yield
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not of the format of Hugging Face's tokenizers library ({error!r})") from error


def _content(path: Path) -> Any:
    try:
        return _parsed(path, *_state(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error


def _state(path: Path) -> tuple[int, int]:
    """Return modification time and size, the cache key of a file."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _parsed(path: Path, _mtime: int, _size: int) -> Any:
    """Parse a JSON file of a tokenizer. Cached: it takes 0.2 s, and a tokenizer has four files."""
    return orjson.loads(path.read_bytes())


@lru_cache(maxsize=2)
def _hashed(path: Path, _mtime: int, _size: int) -> str:
    """Return SHA-256 of the parts that determine ids. Cached: it takes 0.1 s."""
    return hashlib.sha256(orjson.dumps(id_parts(_content(path)), option=orjson.OPT_SORT_KEYS)).hexdigest()


def named_tokens(tokenizer_dir: str | Path) -> dict[str, str]:
    """Return special tokens by name (eos_token, ...) from tokenizer_config.json, else special_tokens_map.json.

    Tokens of LISTS are named LIST[KEY]. Empty if neither file exists. Raises UserError if a file has another format.
    """
    directory = Path(tokenizer_dir)
    return {**_named_in(directory / SPECIAL_TOKENS_FILE), **_named_in(directory / CONFIG_FILE)}


def _named_in(path: Path) -> dict[str, str]:
    """Return the special tokens in one file by name; empty if it does not exist."""
    names: dict[str, str] = {}
    if path.is_file():
        with _format_named(path):
            for name, value in _content(path).items():
                names.update(_named(name, value))
    return names


def _named(name: str, value: Any) -> dict[str, str]:
    """Return the special tokens of one entry by name; empty for other entries."""
    if name in LISTS:
        entries = value.items() if isinstance(value, dict) else enumerate(value or ())
        return {f"{name}[{key}]": _token(token) for key, token in entries}
    return {name: _token(value)} if name.endswith("_token") and isinstance(value, str | dict) else {}


def _token(value: Any) -> str:
    """Return the text of a token, given as a string or as an object with options."""
    content = value["content"] if isinstance(value, dict) else value
    if not isinstance(content, str):
        raise TypeError(f"{content!r} is not a token")
    return content


def end_of_text(tokenizer_dir: str | Path) -> int | None:
    """Return the id of NeMo's end-of-text token; None if the tokenizer names none."""
    named = named_tokens(tokenizer_dir)
    return added_tokens(tokenizer_dir).get(named.get("eos_token", named.get("sep_token", "")), {}).get("id")


def added_tokens(tokenizer_dir: str | Path) -> dict[str, dict[str, Any]]:
    """Return the added_tokens of tokenizer.json by text. Raises UserError as `vocabulary_size`."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        return {token["content"]: token for token in _content(path)["added_tokens"]}


def configuration(tokenizer_dir: str | Path) -> dict[str, Any]:
    """Return tokenizer_config.json; empty if it is missing. Raises UserError if it is not a JSON object."""
    path = Path(tokenizer_dir) / CONFIG_FILE
    if not path.is_file():
        return {}
    with _format_named(path):
        return dict(_content(path).items())


def problems(tokenizer_dir: str | Path) -> list[str]:
    """Return problems that make a tokenizer unusable: unknown parts, gaps in the ids, special tokens without an id.

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
        found.append(_not_added(tokenizer_dir, token))  # transformers would append an id for it
    return found


def _numbered(directory: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield each id given in another file than tokenizer.json: the file, the token, the id."""
    config = directory / CONFIG_FILE
    with _format_named(config):
        for number, token in configuration(directory).get(NUMBERED, {}).items():
            yield config, _token(token), int(number)
    if (path := directory / ADDED_TOKENS_FILE).is_file():
        with _format_named(path):
            for content, number in _content(path).items():
                yield path, content, number


def contradictions(tokenizer_dir: str | Path) -> list[str]:
    """Return problems, and entries of the configuration that make transformers encode text unlike tokenizer.json.

    The latter matter only when text is encoded; a run reads ids.
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
    # transformers would split an ordinary entry out of texts as a special token
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
    """Return add_prefix_space of tokenizer.json; None if it has none, so that transformers cannot change it."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path):
        found = (_content(path).get("pre_tokenizer") or {}).get("add_prefix_space")
        return None if found is None else bool(found)


def fingerprint(tokenizer_dir: str | Path) -> str:
    """Return SHA-256 of the parts of tokenizer.json that determine ids. Raises UserError as `vocabulary_size`."""
    path = tokenizer_file(tokenizer_dir)
    with _format_named(path), failures_named(path):
        return _hashed(path, *_state(path))


def hashes(tokenizer_dir: str | Path) -> tuple[str, str]:
    """Return all hashes that may be recorded for this tokenizer: its `fingerprint`, and SHA-256 of tokenizer.json.

    Older versions recorded the latter. Raises UserError as `vocabulary_size`.
    """
    return fingerprint(tokenizer_dir), sha256_of(tokenizer_file(tokenizer_dir))
