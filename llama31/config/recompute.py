"""Activations that are computed anew in the backward pass instead of being kept: Megatron's arguments, and checks.

Of Megatron's modules for selective recomputation, Llama has three. The FFN is what we take. Attention keeps no scores
here, so to recompute it saves nothing, and Transformer Engine has the norms within its matrix products.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llama31.config.model_sizes import SIZES
from llama31.config.problem import Problem, assignment
from llama31.settings import RecomputeGranularity, RecomputeMethod, Settings


def arguments(settings: Settings) -> dict[str, Any]:
    """Arguments of Megatron's TransformerConfig."""
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
    """The same run with another granularity."""
    usual = Settings()
    return replace(
        settings,
        recompute_granularity=granularity,
        recompute_method=usual.recompute_method,
        recompute_num_layers=usual.recompute_num_layers,
    )


def fuller(settings: Settings) -> list[dict[str, Any]]:
    """Changes of settings by which more is recomputed, values by field, the least first."""
    harder = list(RecomputeGranularity)
    if settings.recompute_granularity is not harder[-1]:
        return [{"recompute_granularity": more} for more in harder[harder.index(settings.recompute_granularity) + 1 :]]
    more_layers = range(settings.recompute_num_layers + 1, chunk_layers(settings) + 1)
    return [{"recompute_num_layers": n} for n in more_layers if settings.recompute_method is RecomputeMethod.block]


def chunk_layers(settings: Settings) -> int:
    """Layers of a model chunk: of a pipeline rank, or of each of its interleaved chunks."""
    chunks = settings.pipeline_parallel_size * settings.virtual_pipeline_size
    return SIZES[settings.size].layers // chunks


def described(settings: Settings) -> str:
    """What is recomputed, in a person's words; empty if nothing is."""
    layers, number = chunk_layers(settings), settings.recompute_num_layers
    if settings.recompute_granularity is RecomputeGranularity.none:
        return ""
    if settings.recompute_granularity is RecomputeGranularity.selective:
        return "the FFN of each layer"
    if settings.recompute_method is RecomputeMethod.block:
        return f"the first {number} of {layers} layers of each model chunk"
    return "each layer" if number == 1 else f"all layers, in units of {number}"


def problems(settings: Settings) -> Iterator[Problem]:
    """Settings that do nothing beside the granularity, or that do not divide a model chunk."""
    if settings.recompute_granularity is not RecomputeGranularity.full:
        for name in ("recompute_method", "recompute_num_layers"):
            value, usual = getattr(settings, name), getattr(Settings(), name)
            if value != usual:
                line = f"{assignment(name, value)}: does nothing without RECOMPUTE_GRANULARITY=full"
                yield Problem(name, line, (usual,), elsewhere=({"recompute_granularity": RecomputeGranularity.full},))
        return
    if settings.size not in SIZES or not (layers := chunk_layers(settings)):
        return  # which is another problem
    number = settings.recompute_num_layers
    if number > layers or (settings.recompute_method is RecomputeMethod.uniform and layers % number):
        what = "divide" if settings.recompute_method is RecomputeMethod.uniform else "be at most"
        works = [n for n in range(min(number, layers), 0, -1) if layers % n == 0 or what == "be at most"]
        yield Problem(
            "recompute_num_layers",
            f"RECOMPUTE_NUM_LAYERS={number}: must {what} the {layers} layers of a model chunk",
            tuple(works[:2]),
        )
