"""Parts of the test files for several processes, and marks that tests get from their fixtures."""

import ast
import subprocess
import sys

import pytest
from checkout import REPOSITORY, TESTS
from shards import is_in_part, part_of

FILES = sorted(TESTS.rglob("test_*.py"))
TRAINS = {"run_forked", "run_llama31", "stopped_by", "train_from_weights"}
"""Functions of tests/support/runs.py that start runs."""


class Config:
    """A pytest.Config with --shard."""

    rootpath = REPOSITORY

    def __init__(self, shard: str):
        self.shard = part_of(shard)

    def getoption(self, _: str) -> tuple[int, int]:
        return self.shard


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_file_is_in_one_part(count: int) -> None:
    parts = [[file for file in FILES if is_in_part(file, Config(f"{i}/{count}"))] for i in range(1, count + 1)]
    assert sorted(file for part in parts for file in part) == FILES
    assert all(parts)


@pytest.mark.parametrize("value", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_what_is_no_part(value: str) -> None:
    with pytest.raises(ValueError):
        part_of(value)


def test_parts_of_a_named_file_and_folder() -> None:
    """A file that is named on the command line is collected in its part only, too."""
    names = ["tests/dev/test_shards.py", "tests/config/test_mlperf_names.py", "tests/run_dir"]
    collected = []
    for shard in ("1/2", "2/2", "1/1"):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *names]
        done = subprocess.run(
            [*command, f"--shard={shard}"], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        collected.append([line for line in done.stdout.splitlines() if "::" in line])
    first, second, everything = collected
    assert sorted(first + second) == sorted(everything) and len(everything) > 10


def test_tests_that_train_are_marked(request: pytest.FixtureRequest) -> None:
    """By their file, by themselves, or by a fixture (conftest.py); a run that ends before training is quick."""
    unmarked = []
    for file in FILES:
        tree = ast.parse(file.read_text())
        if any(isinstance(node, ast.Assign) and "mark.slow" in ast.unparse(node) for node in tree.body):
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                calls = {
                    call.func.id
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
                    if "--dryrun" not in ast.unparse(call)
                }
                marks = [ast.unparse(decorator) for decorator in node.decorator_list]
                if calls & TRAINS and not any("mark.slow" in mark or "mark.slurm" in mark for mark in marks):
                    unmarked.append(f"{file.relative_to(TESTS)}::{node.name}")
    assert unmarked == []
