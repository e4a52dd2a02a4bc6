"""--regenerate-golden writes golden files; without it a difference fails and names the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import SUPPORT

pytestmark = pytest.mark.slow

TESTS = """
def test_text(golden):
    golden.check("text.txt", "new\\n")

def test_answer(golden):
    assert golden.check_answer("answers.txt", "B=1", "old", ["new"]) == "new"

def test_two_answers(golden):
    golden.check_answer("answers.txt", "C=1", "old", ["new", "another"])
"""
ANSWERS = "A=1\n    old\n# note\nB=1\n    {}\nC=1\n    old\n"


def results(root: Path, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "golden", "-p", "no:cacheprovider", "--rootdir", root, *options, root],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(SUPPORT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    (tmp_path / "tests" / "golden" / "text.txt").write_text("old\n")
    (tmp_path / "tests" / "golden" / "answers.txt").write_text(ANSWERS.format("old"))
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    return tmp_path


def test_a_difference_fails_and_changes_nothing(project: Path) -> None:
    printed = results(project)
    assert "3 failed" in printed
    assert "if the new text is right: python3 -m pytest --regenerate-golden tests/test_it.py" in printed
    assert (project / "tests" / "golden" / "text.txt").read_text() == "old\n"
    assert (project / "tests" / "golden" / "answers.txt").read_text() == ANSWERS.format("old")


def test_the_option_writes_what_was_found(project: Path) -> None:
    assert "2 passed" in (printed := results(project, "--regenerate-golden")) and "1 failed" in printed
    assert (project / "tests" / "golden" / "text.txt").read_text() == "new\n"
    assert (project / "tests" / "golden" / "answers.txt").read_text() == ANSWERS.format("new")
    (project / "tests" / "test_it.py").write_text(TESTS.replace('"old", ["new"]', '"new", ["new"]'))
    assert "2 passed" in results(project)
