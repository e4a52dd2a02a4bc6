"""Floating-point operations (FLOPs) of a run, and its time at an assumed utilisation."""

import math

from llama31.config.model_sizes import SIZES
from llama31.config.parallel_layout import Layout
from llama31.estimates.gpus import Gpu
from llama31.settings import Precision, RecomputeGranularity, RecomputeMethod, Settings

FORWARD = 1 / 3
"""The forward pass's share of a training step's FLOPs; an evaluation does only that."""

UTILISATION = {Precision.bf16: 0.40, Precision.fp8: 0.60, Precision.nvfp4: 1.10}
"""Assumed model FLOPs utilisation, relative to the dense bf16 peak; not measured here.

Recomputation takes time at the same rate but does not count as model FLOPs, nor does it in the figures of a run.
bf16: the Llama 3 paper, table 4, reports 38% to 43% for its largest model on H100. fp8: of the 26 submissions in FP8 to
MLPerf Training v5.1's llama31_8b, three quarters had 58% or more. nvfp4: the two single nodes of v6.0 known to use it
had 117% (8 x GB300) and 111% (8 x B300). fp32: `gpus` has no peak.
"""


def flops_per_token(settings: Settings, vocab_size: int) -> int:
    """Return the model FLOPs per training token: 6 N + 12 L d s for N parameters, L layers, hidden size d, sequence s.

    Each parameter is in one multiply-add of the forward pass and two of the backward pass. Attention, without the
    causal mask, adds 12 d s per layer (PaLM paper, appendix B; the Llama 3 paper counts the same way).
    """
    shape = SIZES[settings.size]
    attention = 12 * shape.layers * shape.hidden_size * settings.seq_length
    return 6 * shape.parameters(vocab_size) + attention


def flops_per_step(settings: Settings, vocab_size: int) -> int:
    """Return the model FLOPs of one optimizer step over all GPUs."""
    return settings.gbs * settings.seq_length * flops_per_token(settings, vocab_size)


def recomputed_per_token(settings: Settings) -> int:
    """Return the recomputed FLOPs per training token, which are not model FLOPs.

    The forward pass of a layer takes 2 per weight of its matrices, and 4 d s for attention.
    """
    shape = SIZES[settings.size]
    if settings.recompute_granularity is RecomputeGranularity.none:
        return 0
    if settings.recompute_granularity is RecomputeGranularity.selective:
        return shape.layers * 2 * 3 * shape.hidden_size * shape.ffn_hidden_size
    chunks = settings.pipeline_parallel_size * settings.virtual_pipeline_size
    by_block = settings.recompute_method is RecomputeMethod.block
    layers = settings.recompute_num_layers * chunks if by_block else shape.layers
    return layers * (2 * shape.layer_matrices + 4 * shape.hidden_size * settings.seq_length)


def recomputed_per_step(settings: Settings) -> int:
    """Return the recomputed FLOPs of one optimizer step over all GPUs."""
    return settings.gbs * settings.seq_length * recomputed_per_token(settings)


def flops_to(samples: int, settings: Settings, vocab_size: int) -> float:
    """Return the FLOPs of training on `samples` sequences, with evaluations and recomputation."""
    steps = math.ceil(samples / settings.gbs)
    evaluations = steps // Layout.of(settings).eval_interval
    evaluated = evaluations * settings.eval_samples * settings.seq_length
    training = steps * (flops_per_step(settings, vocab_size) + recomputed_per_step(settings))
    return training + FORWARD * evaluated * flops_per_token(settings, vocab_size)


def seconds(flops: float, settings: Settings, gpu: Gpu) -> float:
    """Return the time of `flops` on all GPUs of the run. The precision must be in UTILISATION."""
    return flops / (Layout.of(settings).world_size * gpu.bf16_flops * UTILISATION[settings.precision])
