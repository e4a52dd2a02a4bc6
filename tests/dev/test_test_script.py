"""dev/test.sh, on a checkout of a few tests in which all other checks are as told: what its last line says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import lacking
import pytest
from runs import REPOSITORY

PASSES, FAILS = "def test_one():\n    pass\n", "def test_two():\n    assert False\n"
SKIPS = """import pytest

@pytest.mark.parametrize("number", range({count}))
def test_three(number):
    pytest.skip("no need")
"""


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def checked(root: Path, *tests: str, hadolint: bool = True, mypy: int = 0) -> tuple[int, list[str]]:
    """Exit code and lines of a call on these tests."""
    root.mkdir()
    binaries = root / "a venv" / "bin"
    script(root / "dev" / "setup.sh", f"printf '%s\\n' '{binaries.parent}'")
    script(binaries / "python", f'case $2 in pytest) exec {sys.executable} "$@" ;; mypy) exit {mypy} ;; esac')
    script(binaries / "shellcheck", "")
    if hadolint:
        script(binaries / "hadolint", "")
    shutil.copy(REPOSITORY / "dev" / "test.sh", root / "dev" / "test.sh")
    for number, text in enumerate(tests):
        (root / f"test_{number}.py").write_text(text)
    done = subprocess.run(
        ["bash", root / "dev" / "test.sh", "-p", "no:cacheprovider"],
        env={**os.environ, "PYTEST_ADDOPTS": "", lacking.ALL_TESTS: ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("skips", "hadolint", "last"),
    [
        (0, True, "All checks hold."),
        (1, True, "All checks hold; skipped: 1 test"),
        (12, False, "All checks hold; skipped: hadolint, 12 tests"),
    ],
)
def test_the_last_line_names_what_was_skipped(tmp_path: Path, skips: int, hadolint: bool, last: str) -> None:
    tests = [PASSES, *([SKIPS.format(count=skips)] if skips else [])]
    code, lines = checked(tmp_path / "checkout", *tests, hadolint=hadolint)
    assert (code, lines[-1]) == (0, last)
    closing = [line for line in lines if "1 passed" in line]
    assert len(closing) == 1 and (not skips or f"{skips} skipped" in closing[0]), "pytest's own last line is there"


def test_the_last_line_names_what_failed(tmp_path: Path) -> None:
    code, lines = checked(tmp_path / "one", FAILS, SKIPS.format(count=2))
    assert (code, lines[-1]) == (1, "FAILED: pytest")
    assert any("--- pytest: FAILED (exit code 1)" in line for line in lines)
    assert checked(tmp_path / "two", FAILS, mypy=2)[1][-1] == "FAILED: mypy, pytest"
