"""CONTRIBUTING.md is a page, and what it names exists."""

import re

import pytest
from checkout import REPOSITORY

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
PATHS = sorted({path for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)*)`", TEXT) if "/" in path or path.endswith(".txt")})
NAMES = {
    "POSITIVE": "llama31/config/resolve.py",
    "NOT_NEGATIVE": "llama31/config/resolve.py",
    "CHANGEABLE": "llama31/checkpoint/identity.py",
    "GPUS": "llama31/estimates/gpus.py",
    "RULESETS": "llama31/rules.py",
    "REFERENCE_POINTS": "llama31/rules.py",
}


@pytest.mark.parametrize("path", PATHS)
def test_paths_exist(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_where_it_says(name: str) -> None:
    assert f"`{name}`" in TEXT
    assert re.search(rf"^{name} ?[:=]", (REPOSITORY / NAMES[name]).read_text(), re.M)


def test_it_fits_on_a_page() -> None:
    assert len(PATHS) > 15 and len(TEXT.splitlines()) <= 100
