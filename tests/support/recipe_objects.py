"""Print the recipes of some settings and their built objects as JSON, with deferred or with all imports.

recipe_objects.py deferred | all
"""

import importlib
import inspect
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama31.common import deferred_imports, skip_megatron_compile, stand_in

if sys.argv[1] == "all":
    deferred_imports.remove()
    sys.modules.pop(skip_megatron_compile.NAME)
    skip_megatron_compile.install_stub()
    importlib.import_module("nemo.collections.llm")

import fiddle
from fiddle import printing

from llama31.model.device import Backend
from llama31.recipe import pretrain_recipe
from llama31.settings import Precision, Settings

CPU, GPU = Backend("cpu", transformer_engine=False), Backend("gpu", transformer_engine=False)
BASE = replace(Settings(), tokenizer_path="", seeds="1", preprocessed_path="data")
RECIPES = [
    (replace(BASE, precision=Precision.fp32, size="tiny"), CPU),
    (BASE, GPU),
    (replace(BASE, tensor_parallel_size=2, pipeline_parallel_size=2, nnodes=2, wandb=True), GPU),
]


def without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def attributes(thing: Any, depth: int = 4) -> Any:
    """Type and attributes of an object, as nested lists."""
    kind = type(thing)
    if depth and kind.__module__.partition(".")[0] in ("llama31", "nemo", "megatron", "lightning"):
        held = {name: attributes(value, depth - 1) for name, value in sorted(vars(thing).items())}
        return [kind.__module__, kind.__qualname__, [base.__qualname__ for base in kind.__mro__], held]
    return without_addresses(repr(thing))


def main() -> None:
    found = []
    for settings, backend in RECIPES:
        recipe = pretrain_recipe(settings, backend, 1, Path("run"))
        parts = [fiddle.build(recipe.model.config), fiddle.build(recipe.optim), fiddle.build(recipe.trainer.strategy)]
        found.append(
            without_addresses(printing.as_str_flattened(recipe)) + json.dumps(list(map(attributes, parts)), indent=1)
        )
    said: dict[str, Any] = {"recipes": found, "modules": len(sys.modules), "deferred": list(deferred_imports._deferred)}
    made = [made for _, made, _ in stand_in._made]
    said["stand-ins"] = [one.__name__ for one in made]
    reals = [one._real() for one in made]
    said["real"] = [real.__name__ for real in reals if inspect.isclass(real) or inspect.isfunction(real)]
    import pandas
    from nemo.collections import llm
    from nemo.collections.llm.modelopt import Quantizer
    from sklearn.metrics import roc_curve

    said["used"] = [
        len(pandas.DataFrame({"a": [1, 2]})),
        roc_curve([0, 1], [0, 1])[0].tolist(),
        "LlamaModel" in llm.__all__,
    ]
    said["used"] += [Quantizer.__module__, llm.MixtralModel.__name__, llm.recipes.llama3_8b.__name__]
    print(json.dumps(said))


main()
