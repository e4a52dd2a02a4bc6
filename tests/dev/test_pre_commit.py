"""The hooks of .pre-commit-config.yaml: their programs are in the environment, and they pass on the tree."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import REPOSITORY

CONFIG = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
HOOKS = [hook for repository in CONFIG["repos"] for hook in repository["hooks"]]
FILES_OF_TYPE = {"python": "*.py", "shell": "*.sh", "text": "*"}


def files_for(hook: dict[str, Any]) -> list[str]:
    """Files of the repository that pre-commit would pass to a hook."""
    (kind,) = hook.get("types") or hook["types_or"][:1]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", FILES_OF_TYPE[kind]]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:  # an unpacked archive
        return [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob(f"*/**/{FILES_OF_TYPE[kind]}")]
    return [name for name in done.stdout.splitlines() if (REPOSITORY / name).is_file()]


def test_nothing_is_downloaded() -> None:
    assert [repository["repo"] for repository in CONFIG["repos"]] == ["local"]
    assert {hook["language"] for hook in HOOKS} == {"system"}


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_each_hook_passes_on_the_tree(hook: dict[str, Any]) -> None:
    program, *options = hook["entry"].split()
    assert program.startswith(".venv/bin/"), "dev/setup.sh makes it"
    path = Path(sys.prefix) / "bin" / Path(program).name
    assert path.is_file()
    if "format" in options:
        options.append("--check")  # a test changes nothing
    files = files_for(hook)
    assert files
    done = subprocess.run([path, *options, *files], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
