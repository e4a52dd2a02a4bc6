"""Estimated memory of one GPU, by use.

Weights, gradients and optimizer state are those of Megatron's distributed optimizer ("Distributed optimizer" in
Megatron-Core's documentation) as `llama31.recipe` sets it: gradients in GRAD_REDUCE_DTYPE, and the fp32 master weights
and Adam's two moments sharded over the data-parallel and context-parallel ranks. tests/end_to_end/test_parallel.py
compares them with allocated memory, and tests/estimates/test_estimates.py the activations with those that Megatron
keeps.

Activations follow Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", sections
4 and 5, which count what each operation saves for the backward pass. Their layer is GPT-3's; `_layer_activations` is
for Llama's. Scalars per token or head, such as statistics of norms and softmax, are not counted: together less than 1%.
With recomputation, the count follows Megatron's TransformerBlock and TransformerLayer.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from llama31.config import low_precision
from llama31.config.model_sizes import SIZES, embedding_rows
from llama31.config.parallel_layout import Layout
from llama31.config.recompute import chunk_layers, fuller
from llama31.estimates.gpus import GB
from llama31.settings import Precision, RecomputeGranularity, RecomputeMethod, ReduceType, Settings

FP32 = 4  # bytes
QUANTISED_COPIES = {"fp8": 2, "nvfp4": 2 * (0.5 + 1 / 16)}
"""Bytes per weight of its narrow copies, one of them transposed; NVFP4 has a scale of a byte for 16 numbers."""
ALLOWANCE = 5 * GB
"""For everything else: CUDA context, NCCL buffers, workspaces, fragmentation. Not measured."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak, the end of a forward pass."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int = ALLOWANCE

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the bytes of each part by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def describe(memory: Memory) -> str:
    """Return the parts as text, GB."""
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in memory.parts().items())


def per_gpu(settings: Settings, vocab_size: int) -> Memory:
    """Return the memory of the GPU that needs most, for checked settings and a tokenizer of `vocab_size` ids."""
    stages = range(settings.pipeline_parallel_size)
    return max((of_stage(settings, vocab_size, stage) for stage in stages), key=lambda memory: memory.total)


def parameters(settings: Settings, vocab_size: int, stage: int) -> int:
    """Return the number of parameters on a rank of a pipeline stage, counted from 0.

    Matrices and embeddings are divided by the tensor-parallel size, norms are not. The first stage has the input
    embedding, the last one the output embedding and the final norm.
    """
    shape, tensor, last = SIZES[settings.size], settings.tensor_parallel_size, settings.pipeline_parallel_size - 1
    layer = shape.layer_matrices // tensor + shape.layer_norms
    embedding = embedding_rows(vocab_size, tensor) // tensor * shape.hidden_size
    layers = shape.layers // settings.pipeline_parallel_size * layer
    return layers + (embedding if stage == 0 else 0) + (embedding + shape.hidden_size if stage == last else 0)


def of_stage(settings: Settings, vocab_size: int, stage: int) -> Memory:
    """Return the memory of a rank of one pipeline stage.

    Bytes per parameter in bf16: 2 for the weight, 4 for the gradient (2 with GRAD_REDUCE_DTYPE=bf16), and 12 for the
    optimizer (fp32 master weight and two moments), sharded. In fp32: 4, 4 and 8, since the weights are the master
    weights. fp8 weights count as bf16's, for Transformer Engine stores each also transposed; if the weights stay in
    bf16, those copies in fp8 or fp4 come on top. Less than a sixth of the activations shrinks, which is not counted.
    """
    count = parameters(settings, vocab_size, stage)
    number = FP32 if settings.precision is Precision.fp32 else 2  # bytes
    optimizer_ranks = Layout.of(settings).data_parallel_size * settings.context_parallel_size
    states = 2 if settings.precision is Precision.fp32 else 3
    tokens = settings.mbs * settings.seq_length // settings.context_parallel_size
    is_last = stage == settings.pipeline_parallel_size - 1
    return Memory(
        weights=math.ceil(count * (number + QUANTISED_COPIES.get(_copied_format(settings), 0))),
        gradients=count * (FP32 if settings.grad_reduce_dtype is ReduceType.fp32 else 2),
        optimizer=math.ceil(count * FP32 * states / optimizer_ranks),
        activations=tokens * number * _activations(settings, _layers_in_flight(settings, stage)),
        logits=tokens * _logits(settings, vocab_size, number) if is_last else 0,
    )


def _copied_format(settings: Settings) -> str:
    """Return the format that Transformer Engine copies the weights to, beside those in bf16; empty if it does not."""
    if settings.precision is Precision.fp8:
        return "" if low_precision.param_gather(settings) else "fp8"
    return "nvfp4" if settings.precision is Precision.nvfp4 else ""


def _norm_ranks(settings: Settings) -> int:
    """Return the number of ranks that share the activations of norms and between layers."""
    return settings.tensor_parallel_size if settings.sequence_parallel else 1


def _layer_activations(settings: Settings) -> int:
    """Return the numbers that one layer saves per token for its backward pass, without recomputation.

    Korthikanti et al. count 34 bytes x hidden size and 5 x heads x sequence for attention scores. Here:

    - Both norms: inputs and outputs, 4 x hidden; divided by the tensor-parallel size with sequence parallelism.
    - Attention, divided by the tensor-parallel size: the joint projection of queries, keys and values; rotated queries
      and keys; the output. With grouped queries, keys and values are narrower than queries. Flash attention saves no
      scores, and without dropout there are no masks.
    - SwiGLU, also divided: the first product is twice the FFN's size; the gated result is the input of the second.
    """
    shape = SIZES[settings.size]
    h, kv, f = shape.hidden_size, shape.key_value_size, shape.ffn_hidden_size
    attention, swiglu = (h + 2 * kv) + (h + kv) + h, 2 * f + f
    return 4 * h // _norm_ranks(settings) + (attention + swiglu) // settings.tensor_parallel_size


def _activations(settings: Settings, layers: int) -> int:
    """Return the numbers saved per token for `layers` layers in flight.

    Recomputed activations exist once, during the backward pass of their layer or group of layers. With the method block
    that pass runs after the chunk's other layers have freed theirs. Transformer Engine fuses the norm into the FFN;
    that selective recomputation then also frees the norm's output is not counted.
    """
    layer = _layer_activations(settings)
    layer_input = SIZES[settings.size].hidden_size // _norm_ranks(settings)
    number = settings.recompute_num_layers
    if settings.recompute_granularity is RecomputeGranularity.none:
        return layers * layer
    if settings.recompute_granularity is RecomputeGranularity.selective:
        ffn = 3 * SIZES[settings.size].ffn_hidden_size // settings.tensor_parallel_size
        return layers * (layer - ffn) + ffn
    if settings.recompute_method is RecomputeMethod.uniform:
        return layers // number * layer_input + number * layer
    recomputed = layers * number // chunk_layers(settings)
    return recomputed * layer_input + (layers - recomputed or 1) * layer


def _layers_in_flight(settings: Settings, stage: int) -> int:
    """Return the layers whose activations a pipeline stage holds at once, counted once per micro batch.

    Stage i of p runs p - i - 1 micro batches forward before its first backward pass; interleaved in v chunks,
    2 (p - i - 1) + (v - 1) p chunks (get_pp_rank_microbatches of Megatron's pipeline_parallel.schedules). One more is
    in flight from then on.
    """
    pipeline, chunks = settings.pipeline_parallel_size, settings.virtual_pipeline_size
    later = pipeline - stage - 1
    ahead = later if chunks == 1 else 2 * later + (chunks - 1) * pipeline
    return chunk_layers(settings) * min(ahead + 1, Layout.of(settings).accumulation_steps * chunks)


def _logits(settings: Settings, vocab_size: int, number: int) -> int:
    """Return the bytes per token from the last layer's output to the loss (Korthikanti et al., section 4.3).

    Input and output of the final norm; the softmax in fp32, computed in place of fp32 logits; and logits of another
    precision.
    """
    tensor = settings.tensor_parallel_size
    norm = 2 * number * SIZES[settings.size].hidden_size // _norm_ranks(settings)
    return norm + embedding_rows(vocab_size, tensor) // tensor * (FP32 + (number if number < FP32 else 0))


def reductions(settings: Settings, vocab_size: int, available: int) -> list[dict[str, Any]]:
    """Return changes of settings that need less memory, as values by field; first of one setting, then of two.

    Starts with the least recomputation that fits in `available` bytes, if any does.
    """
    shape, mbs = SIZES[settings.size], settings.mbs
    batches = [{"mbs": n} for n in range(mbs - 1, 0, -1) if mbs % n == 0]
    layouts = []
    for name, divided in (
        ("tensor_parallel_size", shape.key_value_heads),
        ("context_parallel_size", shape.key_value_heads),
        ("pipeline_parallel_size", shape.layers),
    ):
        now = getattr(settings, name)
        layouts += [_with_ranks(settings, {name: n}) for n in range(2 * now, divided + 1, now) if divided % n == 0]
    recomputed = fuller(settings)
    enough = [change for change in recomputed if per_gpu(replace(settings, **change), vocab_size).total <= available]
    pairs = [
        *({**batch, **change} for batch in batches for change in recomputed[-1:]),
        *({**less, **layout} for less in (*batches[-1:], *recomputed[-1:]) for layout in layouts),
    ]
    return [*enough[:1], *batches, *layouts, *pairs]


def _with_ranks(settings: Settings, change: dict[str, Any]) -> dict[str, Any]:
    """Add GPUS_PER_NODE to a change of the parallel sizes if it needs another number of ranks."""
    layout, ranks = Layout.of(replace(settings, **change)), settings.gpus_per_node
    if layout.world_size % layout.model_parallel_size == 0:
        return change
    return {**change, "gpus_per_node": math.ceil(ranks / layout.model_parallel_size) * layout.model_parallel_size}
