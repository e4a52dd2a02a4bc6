"""A setting that cannot work, and what would."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama31.settings import shown


@dataclass(frozen=True)
class Problem:
    """A setting that does not go with the others."""

    name: str
    """Field to change."""
    what: str
    """What is wrong, with the value."""
    candidates: tuple[Any, ...] = ()
    """Values that would mend it, the best first; those that break something else instead are not shown."""
    elsewhere: tuple[Mapping[str, Any], ...] = ()
    """Changes of other settings, or of several at once, that would mend it as well: values by field."""

    @property
    def remedies(self) -> list[Mapping[str, Any]]:
        """All changes that would mend it, the best first."""
        return [*({self.name: value} for value in self.candidates), *self.elsewhere]


def assignment(name: str, value: Any) -> str:
    """NAME=value for a field, as it is written on the command line but for a shell's quotes."""
    return f"{name.upper()}={shown(value)}"
