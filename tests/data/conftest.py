"""The process as the only rank, and the settings of its data."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from built_data import settings_for
from one_rank import one_rank

from llama31.settings import Settings


@pytest.fixture(scope="module")
def rank() -> Iterator[None]:
    with one_rank():
        yield


@pytest.fixture
def settings(tiny_data: dict[str, str], tmp_path: Path) -> Settings:
    return settings_for(tiny_data, tmp_path)
