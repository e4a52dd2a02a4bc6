"""dev/ works without tests/."""

import ast
import sys
from pathlib import Path

import pytest

from dev.support.runs import REPOSITORY

FILES = sorted((REPOSITORY / "dev").rglob("*.py"))
OF_TESTS = {path.stem for path in (REPOSITORY / "tests").rglob("*.py")} | {"tests"}


def imported(path: Path) -> set[str]:
    """First part of the name of each module that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_of_dev_imports_a_test_or_its_support(path: Path) -> None:
    names = imported(path)
    of_others = {"dev", "llama31", *sys.stdlib_module_names}
    assert not names & (OF_TESTS - of_others), "moved to dev/support/, tests can import it from there"
    # A forked rank finds modules beside its script, as a fresh one.
    assert "sys.path" not in path.read_text() or path.name == "forked_ranks.py", "run it as python3 -m dev.NAME"
