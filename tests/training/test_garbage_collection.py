"""GC_INTERVAL: NeMo's callback, built from the recipe, replaces Python's own collections."""

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest

from llama31.recipe import garbage_collection
from llama31.settings import Settings


@pytest.fixture
def collected() -> Iterator[list[int]]:
    """The generations collected while a test runs; Python's collector is on again after it."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.enable()


def test_garbage_is_collected_at_fixed_steps_only(collected: list[int]) -> None:
    (callback,) = fiddle.build(garbage_collection(Settings(gc_interval=3)))
    assert not gc.isenabled()
    steps = {}
    for step in range(1, 8):
        kept: Any = [[] for _ in range(100_000)]  # many times what starts a collection of Python's own
        collected.clear()
        callback.on_train_batch_end(SimpleNamespace(global_step=step), None, None, kept, step)
        steps[step] = list(collected)
    assert steps == {step: [2] if step % 3 == 0 else [] for step in range(1, 8)}


def test_python_collects_by_default() -> None:
    assert garbage_collection(Settings()) == []
    assert gc.isenabled()
