"""Validated access to the fields of a checkpoint's configuration. Standard library only."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError

REQUIRED = object()
LARGEST = 1 << 63


class Fields:
    """Fields of a configuration. Each UserError names the file, the field and its value."""

    def __init__(self, fields: Mapping[str, Any], path: Path, within: str = ""):
        """Wrap the fields of the file `path`, or of the object in its field `within`."""
        self.fields = fields
        self.path = path
        self.prefix = f"{within}." if within else ""

    def error(self, name: str, problem: str) -> UserError:
        """Return a UserError about one field: FILE: NAME PROBLEM."""
        return UserError(f"{self.path}: {self.prefix}{name} {problem}")

    def value(self, name: str, default: Any = REQUIRED) -> Any:
        """Return a field; `default` if it is missing or null. Raises UserError if it is missing and has no default."""
        found = self.fields.get(name)
        if found is None:
            found = default
        if found is REQUIRED:
            raise self.error(name, "is missing; a Llama's configuration has it")
        return found

    def need(self, name: str, allowed: set[Any], why: str, default: Any = REQUIRED) -> None:
        """Raise UserError, with the reason `why`, unless a field is one of `allowed`."""
        value = self.value(name, default)
        if not isinstance(value, str | bool | int | float | None) or value not in allowed:
            raise self.error(name, f"is {str(value)[:80]}; {why}")

    def positive(self, name: str, default: Any = REQUIRED) -> int:
        """Return a field that must be a whole number, 1 or more."""
        value = self.value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < LARGEST:
            raise self.error(name, f"is {str(value)[:80]}; it must be a whole number, 1 or more")
        return value

    def number(self, name: str, default: Any = REQUIRED) -> float:
        """Return a field that must be a number above 0."""
        value = self.value(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
            raise self.error(name, f"is {str(value)[:80]}; it must be a number above 0")
        return float(value)

    def inner(self, name: str) -> "Fields | None":
        """Return the fields of a field that must be an object; None if it is missing or null."""
        value = self.value(name, None)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, f"is {str(value)[:80]}; it must be null or an object")
        return None if value is None else Fields(value, self.path, name)
