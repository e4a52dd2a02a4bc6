"""Dataclasses from JSON, of the types that they name."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from llama31.common.errors import UserError
from llama31.common.files import failures_named

T = TypeVar("T")


def from_json(kind: type[T], content: Mapping[str, Any]) -> T:
    """The dataclass that `asdict` and JSON took apart; what a list or dict holds is not looked at.

    Raises KeyError for a field that is missing, but for those whose default None says that it is not known, as older
    records have it; and TypeError for one of another type, or what is no object.
    """
    if not isinstance(content, Mapping):
        raise TypeError(f"no object: {content!r}")
    there = [field.name for field in fields(kind) if field.name in content or field.default is not None]  # type: ignore[arg-type]
    values, hints = {name: content[name] for name in there}, get_type_hints(kind)
    for name in there:
        wanted = hints[name]
        alternatives = get_args(wanted) if get_origin(wanted) is UnionType else (wanted,)
        if not any(_is_of(values[name], one) for one in alternatives):
            raise TypeError(f"{name}={values[name]!r}")
    return kind(**values)


def read_json(kind: type[T], file: Path) -> T:
    """The dataclass in a JSON file. Raises UserError, naming the file, where it cannot be read or is damaged."""
    with failures_named(file):
        content = file.read_bytes()
    return parse_json(kind, content, file)


def parse_json(kind: type[T], content: bytes | str, file: Path) -> T:
    """The dataclass in the content of a JSON file. Raises UserError, naming the file, where it is damaged."""
    try:
        return from_json(kind, json.loads(content))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({type(error).__name__}: {error})") from error


def _is_of(value: Any, wanted: Any) -> bool:
    origin = get_origin(wanted)
    return value in get_args(wanted) if origin is Literal else isinstance(value, origin or wanted)
