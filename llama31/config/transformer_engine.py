"""NVIDIA Transformer Engine: whether it is installed, and which settings need it."""

import importlib.util
from collections.abc import Iterator

from llama31.config.problem import Problem, assignment
from llama31.settings import CudaGraphs, Precision, Settings

ON_CPU = "this runs on the CPU"
NOT_INSTALLED = "which is not installed here"


def is_installed() -> bool:
    """Return whether this Python has Transformer Engine, without importing it."""
    return importlib.util.find_spec("transformer_engine") is not None


def problems_without(settings: Settings, reason: str) -> Iterator[Problem]:
    """Yield a problem for each setting that needs Transformer Engine; `reason` says why it cannot be used."""
    for name, needs_it, works in (
        ("precision", settings.precision in (Precision.fp8, Precision.nvfp4), Precision.bf16),
        ("context_parallel_size", settings.context_parallel_size > 1, 1),
        ("sequence_parallel", settings.sequence_parallel, False),
        ("cuda_graphs", settings.cuda_graphs is not CudaGraphs.none, CudaGraphs.none),
    ):
        if needs_it:
            given = assignment(name, getattr(settings, name))
            yield Problem(name, f"{given}: needs CUDA and Transformer Engine, {reason}", (works,))
