"""A setting that cannot work, and values that would."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama31.settings import shown


@dataclass(frozen=True)
class Problem:
    """A setting that conflicts with others."""

    name: str
    """Field to change."""
    what: str
    """What is wrong, with the value."""
    candidates: tuple[Any, ...] = ()
    """Values that would fix it, best first; those that break something else are not suggested."""
    elsewhere: tuple[Mapping[str, Any], ...] = ()
    """Changes of other settings, or of several at once, that would fix it too: values by field."""

    @property
    def remedies(self) -> list[Mapping[str, Any]]:
        """All changes that would fix it, best first: values by field."""
        return [*({self.name: value} for value in self.candidates), *self.elsewhere]


def assignment(name: str, value: Any) -> str:
    """Return NAME=value as written on the command line, without shell quotes."""
    return f"{name.upper()}={shown(value)}"
