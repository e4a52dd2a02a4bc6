"""Skip or fail tests that cannot run here because a program or permission is missing."""

import os
from typing import NoReturn

import pytest

ALL_TESTS = "LLAMA31_ALL_TESTS"
"""Variable that, with 1, makes a failure of each such test."""


def skip(reason: str) -> NoReturn:
    """Skip the test, saying why."""
    if os.environ.get(ALL_TESTS) == "1":
        pytest.fail(f"{ALL_TESTS}=1: {reason}", pytrace=False)
    pytest.skip(reason)
