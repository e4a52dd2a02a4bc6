"""Memory of one GPU, by what it holds.

Weights, gradients and optimizer state are those of Megatron's distributed optimizer ("Distributed optimizer" in
Megatron-Core's documentation) as `llama31.recipe` sets it: gradients in fp32, and the fp32 master weights and Adam's
two moments spread over the data-parallel and context-parallel ranks. tests/end_to_end/test_parallel.py compares them
with what is allocated, and tests/estimates/test_estimates.py the activations with what Megatron keeps.

Activations follow Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", sections
4 and 5, which count what the backward pass needs of each operation. Their layer is that of GPT-3; `_layer_activations`
counts Llama's. Scalars for each token or head, such as the statistics of norms and of the softmax, are left out: less
than 1% together. Where they are recomputed, what is kept follows Megatron's TransformerBlock and TransformerLayer.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from llama31.config.model_sizes import SIZES, embedding_rows
from llama31.config.parallel_layout import Layout
from llama31.config.recompute import chunk_layers, fuller
from llama31.estimates.gpus import GB
from llama31.settings import Precision, RecomputeGranularity, RecomputeMethod, Settings

FP32 = 4  # bytes
ALLOWANCE = 5 * GB
"""For what is not counted: CUDA's context, buffers of NCCL, workspaces, gaps between allocations. Not measured."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the end of a forward pass, which is the peak."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int = ALLOWANCE

    @property
    def total(self) -> int:
        """All together."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by what they are for."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def described(memory: Memory) -> str:
    """The parts in a person's words."""
    return ", ".join(f"{name} {size / GB:.1f}" for name, size in memory.parts().items())


def per_gpu(settings: Settings, vocab_size: int) -> Memory:
    """The fullest GPU of a run with checked settings and a tokenizer of `vocab_size` ids."""
    stages = range(settings.pipeline_parallel_size)
    return max((of_stage(settings, vocab_size, stage) for stage in stages), key=lambda memory: memory.total)


def parameters(settings: Settings, vocab_size: int, stage: int) -> int:
    """Parameters that a rank of a pipeline stage (0: the first) holds.

    Matrices and embeddings are divided by the tensor-parallel size, norms are not. The first stage has the input
    embedding, the last one the output embedding and the final norm.
    """
    shape, tensor, last = SIZES[settings.size], settings.tensor_parallel_size, settings.pipeline_parallel_size - 1
    layer = shape.layer_matrices // tensor + shape.layer_norms
    embedding = embedding_rows(vocab_size, tensor) // tensor * shape.hidden_size
    layers = shape.layers // settings.pipeline_parallel_size * layer
    return layers + (embedding if stage == 0 else 0) + (embedding + shape.hidden_size if stage == last else 0)


def of_stage(settings: Settings, vocab_size: int, stage: int) -> Memory:
    """Memory of a rank of one pipeline stage.

    bf16: 2 bytes a weight, 4 a gradient, and 12 for the optimizer (fp32 master weight and two moments) divided by its
    ranks. fp32: 4, 4 and 8, for the weights are their own masters. fp8 counts as bf16: Transformer Engine keeps a
    weight in fp8 twice, as it is and transposed, and of activations less than a sixth is smaller in fp8.
    """
    held = parameters(settings, vocab_size, stage)
    number = FP32 if settings.precision is Precision.fp32 else 2  # bytes
    optimizer_ranks = Layout.of(settings).data_parallel_size * settings.context_parallel_size
    states = 2 if settings.precision is Precision.fp32 else 3
    tokens = settings.mbs * settings.seq_length // settings.context_parallel_size
    is_last = stage == settings.pipeline_parallel_size - 1
    return Memory(
        weights=held * number,
        gradients=held * FP32,
        optimizer=math.ceil(held * FP32 * states / optimizer_ranks),
        activations=tokens * number * _activations(settings, _layers_in_flight(settings, stage)),
        logits=tokens * _logits(settings, vocab_size, number) if is_last else 0,
    )


def _norm_ranks(settings: Settings) -> int:
    """Ranks that divide norms, and what passes between layers, among them."""
    return settings.tensor_parallel_size if settings.sequence_parallel else 1


def _layer_activations(settings: Settings) -> int:
    """Numbers that one layer keeps for each token until its backward pass, where nothing is recomputed.

    Korthikanti et al. count 34 bytes x hidden size and 5 x heads x sequence for attention scores. Here:

    - Both norms: inputs and outputs, 4 x hidden; divided among the tensor-parallel ranks with sequence parallelism.
    - Attention, divided by tensor parallelism: the joint projection of queries, keys and values, of which the values
      are used where they lie; queries and keys once more, rotated; the output. With grouped queries, keys and values
      are narrower than queries. Flash attention keeps no scores, and no dropout means no masks.
    - SwiGLU, likewise divided: the first product is twice the FFN's size; the gated result goes into the second.
    """
    shape = SIZES[settings.size]
    h, kv, f = shape.hidden_size, shape.key_value_size, shape.ffn_hidden_size
    attention, swiglu = (h + 2 * kv) + (h + kv) + h, 2 * f + f
    return 4 * h // _norm_ranks(settings) + (attention + swiglu) // settings.tensor_parallel_size


def _activations(settings: Settings, layers: int) -> int:
    """Numbers that so many layers in flight keep for each token.

    What is recomputed is there again, once, while the backward pass of its layer, or of its unit of layers, runs. Of
    the method block that pass comes when the chunk's other layers have let theirs go. Transformer Engine has the norm
    before the FFN within that; that selective recomputation then saves the norm's output, too, is not counted.
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
    """Layers, counted once for each micro batch, whose activations a pipeline stage holds at a time.

    Stage i of p runs p - i - 1 micro batches forward before its first backward pass; interleaved in v chunks,
    2 (p - i - 1) + (v - 1) p chunks (get_pp_rank_microbatches of Megatron's pipeline_parallel.schedules). One more is
    in flight from then on.
    """
    pipeline, chunks = settings.pipeline_parallel_size, settings.virtual_pipeline_size
    later = pipeline - stage - 1
    ahead = later if chunks == 1 else 2 * later + (chunks - 1) * pipeline
    return chunk_layers(settings) * min(ahead + 1, Layout.of(settings).accumulation_steps * chunks)


def _logits(settings: Settings, vocab_size: int, number: int) -> int:
    """Bytes for each token from the last layer's output to the loss (Korthikanti et al., section 4.3).

    Input and output of the final norm; the softmax in fp32, in whose place the logits were; and where these are not
    fp32 themselves, the logits beside it.
    """
    tensor = settings.tensor_parallel_size
    norm = 2 * number * SIZES[settings.size].hidden_size // _norm_ranks(settings)
    return norm + embedding_rows(vocab_size, tensor) // tensor * (FP32 + (number if number < FP32 else 0))


def smaller(settings: Settings, vocab_size: int, there: int) -> list[dict[str, Any]]:
    """Changes of settings that lower the memory, values by field: one setting first, then two.

    Recomputation comes first, but only as much of it as `there` bytes ask for.
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
    enough = [change for change in recomputed if per_gpu(replace(settings, **change), vocab_size).total <= there]
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
