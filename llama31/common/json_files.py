"""Dataclasses and other values as JSON files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named

INDENT = 2
LARGEST = 1 << 63  # of whole numbers: arithmetic and formatting fail far above
T = TypeVar("T")


class DamagedJson(UserError):
    """A file is not JSON, or its content has another form than expected."""


def to_json(value: Any) -> str:
    """Return a dataclass, or what JSON can hold, as the text of a file."""
    return json.dumps(asdict(value) if is_dataclass(value) else value, indent=INDENT) + "\n"  # type: ignore[arg-type]


def write_json(file: Path, value: Any) -> None:
    """Write a dataclass, or what JSON can hold, to a file atomically. Raises UserError if it cannot be written."""
    with atomic_writer(file) as written:
        written.write(to_json(value).encode())


def load_json(file: Path) -> Any:
    """Return the content of a JSON file. Raises UserError if it cannot be read, DamagedJson if it is not JSON."""
    with failures_named(file):
        content = file.read_bytes()
    try:
        return parsed(content)
    except ValueError as error:
        raise DamagedJson(f"{file}: not JSON: {error}") from error


def parsed(content: bytes | str) -> Any:
    """Return the value of a JSON text. Raises ValueError if it is none, or nested too deeply to be read."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises as `load_json`, and DamagedJson for another value."""
    content = load_json(file)
    if not isinstance(content, dict):
        raise DamagedJson(f"{file}: not a JSON object")
    return content


def read_json(kind: type[T], file: Path) -> T:
    """Return the dataclass in a JSON file. Raises UserError if it cannot be read, DamagedJson if it is damaged."""
    with failures_named(file):
        content = file.read_bytes()
    return parse_json(kind, content, file)


def read_json_if_present(kind: type[T], file: Path) -> T | None:
    """Return the dataclass in a JSON file, None if there is no such file. Raises as `read_json`."""
    with failures_named(file):
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    return parse_json(kind, content, file)


def parse_json(kind: type[T], content: bytes | str, file: Path) -> T:
    """Return the dataclass in the content of a JSON file. Raises DamagedJson, naming the file, if it is damaged."""
    try:
        return from_json(kind, parsed(content))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedJson(f"{file}: damaged ({type(error).__name__}: {error})") from error


def from_json(kind: type[T], content: Mapping[str, Any]) -> T:
    """Return the dataclass whose fields a JSON object holds. Unknown names in the object are ignored.

    Fields may be of simple types, dataclasses, unions of those, and tuples of any length; the items of lists and dicts
    are not checked. Raises KeyError for a missing field, unless its default is None, which older files lack; and
    TypeError for a value of another type.
    """
    if not isinstance(content, Mapping):
        raise TypeError(f"no object: {content!r}")
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name in content or field.default is not None]  # type: ignore[arg-type]
    return kind(**{name: _converted(name, content[name], hints[name]) for name in names})


def _converted(name: str, value: Any, wanted: Any) -> Any:
    """Return a JSON value as the wanted type. Raises TypeError, naming the field, if it is of another."""
    if is_dataclass(wanted):
        return from_json(wanted, value)  # type: ignore[arg-type]
    if get_origin(wanted) is tuple and isinstance(value, list):
        item, _ = get_args(wanted)
        return tuple(_converted(name, one, item) for one in value)
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise TypeError(f"{name} has {len(str(value))} digits")
    if not any(_is_of(value, one) for one in (get_args(wanted) if get_origin(wanted) is UnionType else (wanted,))):
        raise TypeError(f"{name}={value!r}")
    return value


def _is_of(value: Any, wanted: Any) -> bool:
    origin = get_origin(wanted)
    return value in get_args(wanted) if origin is Literal else isinstance(value, origin or wanted)
