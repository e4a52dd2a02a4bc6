"""Marks of tests, by which dev/test.sh --quick selects."""

import ast

from checkout import TESTS

FILES = sorted(TESTS.rglob("test_*.py"))
TRAINS = {"run_forked", "run_llama31", "stopped_by", "train_from_weights"}
"""Functions of tests/support/runs.py that start runs."""


def test_tests_that_train_are_marked() -> None:
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
