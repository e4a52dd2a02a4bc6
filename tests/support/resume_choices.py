"""Looks for the checkpoint that a job resumes from, and starts such jobs."""

import pytest
from checkpoints import settings_of
from runs import arguments

from llama31.checkpoint import resume
from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.plan import validate

SEED = 7


def find(given: dict[str, str], *more: str, allowed: tuple[str, ...] = ()) -> resume.Found:
    settings = settings_of(given, *more)
    return resume.find(settings, validate.check(settings), allowed, thorough=True)


def refused(given: dict[str, str], *more: str, allowed: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(UserError) as error:
        find(given, *more, allowed=allowed)
    for line in error.value.lines:
        assert "\n" not in line
    return error.value.lines


def launched(given: dict[str, str], *more: str) -> int:
    return launch.run([*arguments(given), *more])
