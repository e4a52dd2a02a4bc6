"""The last line of dev/test.sh, on a checkout with a few tests and simulated results of all other checks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lacking
import pytest
from runs import REPOSITORY

pytestmark = pytest.mark.slow

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


def checked(
    root: Path, *tests: str, hadolint: bool = True, mypy: int = 0, arguments: tuple[str, ...] = (".",)
) -> tuple[int, list[str]]:
    """Exit code and lines of a call on these tests."""
    root.mkdir()
    (root / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    slurm\n    gpu\n")
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
        ["bash", root / "dev" / "test.sh", *arguments],
        env={**os.environ, "PYTEST_ADDOPTS": "-p no:cacheprovider", lacking.ALL_TESTS: ""},
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


PASSES_SLOWLY = "import pytest\n\n@pytest.mark.slow\ndef test_six():\n    pass\n"
QUICK = "def test_four():\n    pass\n"
SLOW = "import pytest\n\n@pytest.mark.{mark}\ndef test_five():\n    assert False\n"


def test_quick_leaves_out_what_is_slow_or_needs_slurm_or_a_gpu(tmp_path: Path) -> None:
    tests = [PASSES, SKIPS.format(count=2), QUICK, *(SLOW.format(mark=mark) for mark in ("slow", "slurm", "gpu"))]
    code, lines = checked(tmp_path / "checkout", *tests, arguments=("--quick",))
    left_out = "tests that are slow or need Slurm or a GPU"
    assert (code, lines[-1]) == (0, f"All checks hold; skipped: 2 tests, {left_out}"), lines
    assert any("2 passed, 2 skipped" in line for line in lines), lines
    assert checked(tmp_path / "full", *tests)[0] == 1, "the full run has them all"


def test_quick_fails_where_one_test_does(tmp_path: Path) -> None:
    for number, tests in enumerate(([FAILS, PASSES, QUICK, PASSES], [PASSES, QUICK, PASSES, FAILS])):
        code, lines = checked(tmp_path / str(number), *tests, arguments=("--quick",))
        assert code == 1 and lines[-1].startswith("FAILED: pytest"), lines


def test_quick_takes_a_selection(tmp_path: Path) -> None:
    assert checked(tmp_path / "one", PASSES, QUICK, arguments=("--quick", "-k", "four"))[0] == 0
    code, lines = checked(tmp_path / "none", PASSES, QUICK, arguments=("--quick", "-k", "nothing"))
    assert code == 1 and lines[-1] == "FAILED: pytest"


@pytest.mark.parametrize("arguments", [(), (".",)])
def test_all_tests_run_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Without arguments in two calls of pytest, of which each must find tests."""
    code, lines = checked(tmp_path / "checkout", PASSES, PASSES_SLOWLY, arguments=arguments)
    assert (code, lines[-1]) == (0, "All checks hold.")
    passed = [int(number) for line in lines for number in re.findall(r"(\d+) passed", line)]
    assert passed == ([2] if arguments else [1, 1])
