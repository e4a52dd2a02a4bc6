"""Activation recomputation: Megatron's arguments, and checks of the settings.

Of Megatron's modules for selective recomputation, Llama has three. `selective` recomputes the FFN. Attention keeps no
scores here, so recomputing it saves nothing, and Transformer Engine fuses the norms into its matrix products.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llama31.config.model_sizes import SIZES
from llama31.config.problem import Problem, assignment
from llama31.settings import RecomputeGranularity, RecomputeMethod, Settings


def arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of Megatron's TransformerConfig."""
    if settings.recompute_granularity is RecomputeGranularity.none:
        return {}
    if settings.recompute_granularity is RecomputeGranularity.selective:
        return {"recompute_granularity": "selective", "recompute_modules": ["mlp"]}
    return {
        "recompute_granularity": "full",
        "recompute_method": settings.recompute_method.name,
        "recompute_num_layers": settings.recompute_num_layers,
    }


def instead(settings: Settings, granularity: RecomputeGranularity) -> Settings:
    """Return the same settings with another granularity."""
    usual = Settings()
    method, number = usual.recompute_method, usual.recompute_num_layers
    return replace(settings, recompute_granularity=granularity, recompute_method=method, recompute_num_layers=number)


def fuller(settings: Settings) -> list[dict[str, Any]]:
    """Return changes of settings that recompute more, least first: values by field."""
    harder = list(RecomputeGranularity)
    if settings.recompute_granularity is not harder[-1]:
        return [{"recompute_granularity": more} for more in harder[harder.index(settings.recompute_granularity) + 1 :]]
    more_layers = range(settings.recompute_num_layers + 1, chunk_layers(settings) + 1)
    return [{"recompute_num_layers": n} for n in more_layers if settings.recompute_method is RecomputeMethod.block]


def chunk_layers(settings: Settings) -> int:
    """Return the layers in a model chunk: of a pipeline rank, or of each of its interleaved chunks."""
    chunks = settings.pipeline_parallel_size * settings.virtual_pipeline_size
    return SIZES[settings.size].layers // chunks


def described(settings: Settings) -> str:
    """Return a phrase for the plan; empty if nothing is recomputed."""
    layers, number = chunk_layers(settings), settings.recompute_num_layers
    if settings.recompute_granularity is RecomputeGranularity.none:
        return ""
    if settings.recompute_granularity is RecomputeGranularity.selective:
        return "the FFN of each layer"
    if settings.recompute_method is RecomputeMethod.block:
        return f"the first {number} of {layers} layers of each model chunk"
    return "each layer" if number == 1 else f"all layers, in units of {number}"


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield settings that have no effect with this granularity, or that do not divide a model chunk."""
    if settings.recompute_granularity is not RecomputeGranularity.full:
        for name in ("recompute_method", "recompute_num_layers"):
            value, usual = getattr(settings, name), getattr(Settings(), name)
            if value != usual:
                line = f"{assignment(name, value)}: does nothing without RECOMPUTE_GRANULARITY=full"
                yield Problem(name, line, (usual,), elsewhere=({"recompute_granularity": RecomputeGranularity.full},))
        return
    if settings.size not in SIZES or not (layers := chunk_layers(settings)):
        return  # reported elsewhere
    number = settings.recompute_num_layers
    if number > layers or (settings.recompute_method is RecomputeMethod.uniform and layers % number):
        must = "divide" if settings.recompute_method is RecomputeMethod.uniform else "be at most"
        works = [n for n in range(min(number, layers), 0, -1) if layers % n == 0 or must == "be at most"]
        what = f"RECOMPUTE_NUM_LAYERS={number}: must {must} the {layers} layers of a model chunk"
        yield Problem("recompute_num_layers", what, tuple(works[:2]))
