"""CUDA graphs: what CUDA_GRAPHS becomes in NeMo and Megatron-Core, and what it cannot be combined with.

The kernels of a layer, or of a whole iteration, are recorded once and then started in one go, which saves the
host's time for each launch. Names are Megatron-Core's: `cuda_graph_scope` of TransformerConfig.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from llama31.common.errors import UserError
from llama31.config.problem import Problem, assignment
from llama31.settings import CudaGraphs, RecomputeGranularity, Settings

ALLOCATOR, UNSAFE = "PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"


def arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of NeMo's model configuration."""
    if settings.cuda_graphs is CudaGraphs.none:
        return {}
    is_whole = settings.cuda_graphs is CudaGraphs.full_iteration
    # As in NeMo's performance scripts. Its names: setting only cuda_graph_impl would not turn on NeMo's own part.
    found = {"enable_cuda_graph": True, "cuda_graph_scope": "full_iteration" if is_whole else "full"}
    if is_whole and settings.pipeline_parallel_size > 1:
        found["batch_p2p_sync"] = False  # a synchronisation with the host, which a graph cannot contain
    return found


def described(settings: Settings) -> str:
    """Return a phrase for the plan; empty without graphs."""
    return {
        CudaGraphs.none: "",
        CudaGraphs.layer: "of the forward and the backward pass of each layer",
        CudaGraphs.full_iteration: "of all forward and backward passes of a step, and of an evaluation's batch",
    }[settings.cuda_graphs]


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield combinations that Megatron-Core refuses; that graphs need Transformer Engine is checked with the others."""
    if settings.cuda_graphs is CudaGraphs.none:
        return
    if settings.recompute_granularity is not RecomputeGranularity.none:
        given = assignment("cuda_graphs", settings.cuda_graphs)
        beside = assignment("recompute_granularity", settings.recompute_granularity)
        what = f"{given}: Megatron-Core records no graphs with {beside}"
        none = RecomputeGranularity.none
        yield Problem("cuda_graphs", what, (CudaGraphs.none,), elsewhere=({"recompute_granularity": none},))


def check_allocator(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raise UserError if torch's memory allocator is configured in a way that graphs do not survive."""
    if settings.cuda_graphs is not CudaGraphs.none and UNSAFE in environment.get(ALLOCATOR, ""):
        given = assignment("cuda_graphs", settings.cuda_graphs)
        raise UserError(f"{given}: not safe with {UNSAFE} in {ALLOCATOR}; unset it, or set CUDA_GRAPHS=none")
