"""Recipes for tests, and what differs between two of them."""

from pathlib import Path
from typing import Any

import fiddle
import nemo_run as run

from llama31.model.device import Backend
from llama31.recipe import pretrain_recipe
from llama31.settings import Settings

CPU = Backend("cpu", transformer_engine=False)
CUDA = Backend("gpu", transformer_engine=False)
CUDA_WITH_ENGINE = Backend("gpu", transformer_engine=True)
BACKENDS = [CPU, CUDA, CUDA_WITH_ENGINE]


def recipe(settings: Settings, backend: Backend = CUDA_WITH_ENGINE, seed: int = 1) -> run.Partial:
    """What the ranks of a run on an unknown machine train by."""
    return pretrain_recipe(settings, backend, seed, Path("/run"))


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Path -> plain value of all that a recipe holds; a configuration's own path gives its class."""
    if isinstance(value, fiddle.Buildable):
        found = {path or "recipe": value.__fn_or_cls__}
        for name, argument in value.__arguments__.items():
            found |= flat(argument, f"{path}.{name}" if path else str(name))
        return found
    if isinstance(value, list):
        return {key: item for i, part in enumerate(value) for key, item in flat(part, f"{path}[{i}]").items()}
    return {path: value}


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Paths whose values differ, or that only one of them has."""
    absent = object()
    return {path for path in one | other if one.get(path, absent) != other.get(path, absent)}
