"""What skips a test, and that CI lets nothing skip but what needs a GPU or files that are no part of the repository."""

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import lacking
import pytest
from runs import REPOSITORY


def test_all_tests_means_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "0"):
        monkeypatch.setenv(lacking.ALL_TESTS, value)
        with pytest.raises(pytest.skip.Exception, match="no such program"):
            lacking.skip("no such program")
    monkeypatch.setenv(lacking.ALL_TESTS, "1")
    with pytest.raises(pytest.fail.Exception, match="LLAMA31_ALL_TESTS=1: no such program"):
        lacking.skip("no such program")


def test_no_test_skips_otherwise() -> None:
    calls = {
        (file.name, ast.unparse(node))
        for file in (REPOSITORY / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.skip", "pytest.importorskip")
    }
    assert calls == {
        ("lacking.py", "pytest.skip(reason)"),
        ("test_doctor.py", "pytest.skip('there is no CUDA device')"),
    }


@pytest.mark.parametrize(("all_tests", "code"), [({}, 0), ({lacking.ALL_TESTS: "1"}, 1)])
@pytest.mark.parametrize("linter", ["shellcheck", "hadolint"])
def test_linters_too(linter: str, all_tests: dict[str, str], code: int, tmp_path: Path) -> None:
    """dev/test.sh where they are not installed, and the user may not install them."""
    (tmp_path / "bin").mkdir()
    for program in ("git", "find"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program) or "/nowhere")
    functions = "".join(
        re.findall(
            r"^(?:shell_scripts|run_\w+lint|run_\w+check)\(\) \{.*?^\}\n",
            (REPOSITORY / "dev/test.sh").read_text(),
            re.M | re.S,
        )
    )
    assert f"run_{linter}()" in functions
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", f"apt-get() {{ false; }}; {functions}run_{linter}"],
        cwd=REPOSITORY, env={"PATH": str(tmp_path / "bin"), "venv": str(tmp_path), **all_tests},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(f"skipped: {linter} "), done.stderr
    assert done.returncode == code


def test_ci_runs_all_tests(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "dev").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "dev" / "test.sh").write_text(f'printf %s "${lacking.ALL_TESTS}"')
    ours = {name: value for name, value in os.environ.items() if name != lacking.ALL_TESTS}
    done = subprocess.run(["bash", tmp_path / ".ci" / "run"], env=ours, capture_output=True, text=True, check=True)
    assert done.stdout == "1"
