"""Settings to be validated, the lines on their problems, and what those suggest."""

from llama31.config.resolve import resolve
from llama31.plan import validate
from llama31.settings import Settings


def settings_of(usual: dict[str, str], *arguments: str) -> Settings:
    return resolve([*(f"{name}={value}" for name, value in usual.items()), *arguments], {}).settings


def lines_of(usual: dict[str, str], *arguments: str) -> list[str]:
    return validate.look(settings_of(usual, *arguments))[1]


def suggested(line: str) -> list[str]:
    """The NAME=value of a line that ends in `; A=1 or B=2 works`."""
    _, _, works = line.rpartition("; ")
    return works.removesuffix(" works").split(" or ") if works.endswith(" works") else []
