"""The plan's estimates of memory, disk and speed, compared with Megatron's tensors and published runs.

Weights, gradients and optimizer state of several ranks: test_parallel.py. The training index: test_data.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest
import torch
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from nemo.lightning.pytorch.plugins.mixed_precision import update_config_with_dtype_overrides
from one_rank import one_rank

from llama31 import recipe, rules
from llama31.config.model_sizes import SIZES
from llama31.estimates import disk, memory, speed
from llama31.estimates.gpus import GB, GPUS
from llama31.model.device import Backend
from llama31.model.layers import cpu_layer_spec
from llama31.model.llama import model_config
from llama31.settings import Device, Precision, RecomputeGranularity, RecomputeMethod, Settings

VOCABULARY = 1024
MODEL = Settings(size="demo", device=Device.cpu, seq_length=128, mbs=2)


FULL, SELECTIVE = RecomputeGranularity.full, RecomputeGranularity.selective
RECOMPUTED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "each layer's FFN": {"recompute_granularity": SELECTIVE},
    "each layer": {"recompute_granularity": FULL},
    "units of two layers": {"recompute_granularity": FULL, "recompute_num_layers": 2},
    "three of four layers": {
        "recompute_granularity": FULL,
        "recompute_method": RecomputeMethod.block,
        "recompute_num_layers": 3,
    },
}


def estimate(**changes: object) -> memory.Memory:
    """Estimate memory per GPU for the benchmark's vocabulary."""
    return memory.per_gpu(replace(Settings(), **changes), rules.VOCABULARY_SIZE)


# Activations


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():
        yield


def layer_spec(config: TransformerConfig) -> ModuleSpec:
    """The CPU's layer, but with Megatron's self-attention: with Transformer Engine, too, that keeps the projection."""
    spec = cpu_layer_spec(config)
    spec.submodules.self_attention.module = SelfAttention
    return spec


def kept_for_backward(settings: Settings) -> list[torch.Tensor]:
    """What a forward pass of Megatron's model keeps beside its parameters: one tensor for each piece of memory."""
    config = fiddle.build(model_config(settings, Backend("cpu", transformer_engine=False)))
    update_config_with_dtype_overrides(fiddle.build(recipe.precision(settings)).dtype_config, config)
    config.transformer_layer_spec = layer_spec
    model = config.configure_model(SimpleNamespace(vocab_size=VOCABULARY))
    if settings.precision is not Precision.fp32:
        model = Float16Module(config, model)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (memory_of := tensor.untyped_storage().data_ptr()) not in parameters:
            kept[memory_of] = tensor
        return tensor

    ids = torch.zeros(settings.mbs, settings.seq_length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, position_ids=ids, labels=ids, attention_mask=None)
    return list(kept.values())


def is_norms(tensor: torch.Tensor, settings: Settings) -> bool:
    """An fp32 tensor of the hidden size: torch's RMSNorm keeps two such on a CPU, on CUDA its input as it is."""
    return tensor.dtype is torch.float32 and tensor.size(-1) == SIZES[settings.size].hidden_size


@pytest.mark.parametrize("recomputed", RECOMPUTED)
def test_activations_in_bf16_are_what_megatron_keeps(recomputed: str) -> None:
    tokens, shape = MODEL.mbs * MODEL.seq_length, SIZES[MODEL.size]
    model = replace(MODEL, **RECOMPUTED[recomputed])
    kept = kept_for_backward(model)
    of_norms = [tensor for tensor in kept if is_norms(tensor, MODEL)]
    assert len(of_norms) == 2, "the last norm's"
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept if not is_norms(tensor, MODEL))
    found += tokens * 2 * shape.hidden_size
    expected = memory.per_gpu(model, VOCABULARY)
    # Memory for recomputed activations is needed only during the backward pass, which has not run yet.
    usual = memory.per_gpu(MODEL, VOCABULARY)
    layer = usual.activations // shape.layers
    ffn = tokens * 2 * 3 * shape.ffn_hidden_size
    again = {"each layer": layer, "units of two layers": 2 * layer, "each layer's FFN": ffn}.get(recomputed, 0)
    activations = expected.activations - again
    logits = expected.logits - tokens * VOCABULARY * 2  # which are beside the softmax only for a moment
    assert found == pytest.approx(activations + logits, abs=0.02 * (usual.activations + logits))
    assert found >= activations + logits, "the estimate counts what is not kept"


# The benchmark's model


def test_parameters_of_all_ranks_are_those_of_the_model() -> None:
    settings = replace(Settings(), tensor_parallel_size=2, pipeline_parallel_size=4)
    shape = SIZES[settings.size]
    ranks = [memory.parameters(settings, rules.VOCABULARY_SIZE, stage) for stage in range(4) for _ in range(2)]
    norms = shape.layers * shape.layer_norms + shape.hidden_size  # which each tensor-parallel rank has
    assert sum(ranks) == shape.parameters(rules.VOCABULARY_SIZE) + norms
    assert shape.parameters(rules.VOCABULARY_SIZE) == 8_030_261_248


def test_embeddings_are_padded_for_tensor_parallelism() -> None:
    """128,256 is a multiple of 128 x 2, but not of 128 x 4."""
    four = replace(Settings(), tensor_parallel_size=4, gpus_per_node=4)
    h = SIZES[four.size].hidden_size
    unpadded, padded = memory.parameters(four, 128_000, 0), memory.parameters(four, 128_256, 0)
    assert padded - unpadded == 2 * h * (128_512 - 128_000) // 4


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, [32]),
        ({"pipeline_parallel_size": 4, "gbs": 32}, [32, 24, 16, 8]),
        ({"pipeline_parallel_size": 4, "gbs": 2}, [16, 16, 16, 8]),
        ({"pipeline_parallel_size": 4, "virtual_pipeline_size": 2, "gbs": 32}, [44, 36, 28, 20]),
    ],
)
def test_layers_in_flight_are_those_of_the_schedule(changes: dict[str, int], layers: list[int]) -> None:
    """Korthikanti et al., section 4.2.3: the first stage holds L layers, interleaved L (1 + (p - 1) / (p v))."""
    pipeline = changes.get("pipeline_parallel_size", 1)
    settings = replace(Settings(gpus_per_node=pipeline), **changes)
    one_layer = memory.of_stage(Settings(), rules.VOCABULARY_SIZE, 0).activations // 32
    stages = [memory.of_stage(settings, rules.VOCABULARY_SIZE, stage) for stage in range(pipeline)]
    assert [stage.activations / one_layer for stage in stages] == layers
    assert [stage.logits > 0 for stage in stages] == [False] * (pipeline - 1) + [True]
    fullest = memory.per_gpu(settings, rules.VOCABULARY_SIZE)
    assert fullest.total == max(stage.total for stage in stages)


def test_sequence_and_context_parallelism_divide_activations() -> None:
    usual = {"gpus_per_node": 8, "tensor_parallel_size": 4}
    plain, divided = estimate(**usual), estimate(**usual, sequence_parallel=True)
    assert divided.activations * 4 == estimate(gpus_per_node=2).activations < plain.activations * 4
    halves = estimate(**usual, context_parallel_size=2)
    assert (halves.activations * 2, halves.logits * 2) == (plain.activations, plain.logits)
    assert halves.optimizer == plain.optimizer, "context-parallel ranks share the optimizer's state, too"


# Published runs


@dataclass(frozen=True)
class Published:
    """A submission to MLPerf Training v5.1, closed division, llama31_8b, all in fp8 or nvfp4: facts of its log."""

    system: str
    gpu: str
    gpus: int
    global_batch_size: int
    micro_batch_size: int
    tensor_parallel: int
    context_parallel: int
    tokens_per_second: float
    """Of each GPU."""
    utilisation: float
    """Model FLOPs over the dense bf16 peak."""


PUBLISHED = [
    Published("NVIDIA tyche, 512 GPUs", "GB200", 512, 64, 1, 2, 4, 11362.0, 0.278),
    Published("NVIDIA theia, 72 GPUs", "GB300", 72, 36, 1, 1, 2, 27618.3, 0.675),
    Published("Cisco hpf_n16", "H100", 128, 64, 1, 2, 1, 7531.6, 0.465),
    Published("HPE Cray XD670, 8 nodes", "H200", 64, 32, 1, 1, 2, 11579.6, 0.715),
    Published("Nebius b200_n4", "B200", 32, 32, 1, 1, 1, 30410.6, 0.825),
    Published("Dell XE9680L, 2 nodes", "B200", 16, 32, 2, 1, 1, 27665.2, 0.751),
    Published("University of Florida DGX B200", "B200", 8, 16, 2, 1, 1, 30061.0, 0.816),
    Published("Dell XE9780", "B300", 8, 16, 2, 1, 1, 29838.3, 0.81),
    Published("AMD MI350X", "MI350X", 8, 32, 2, 1, 1, 25473.6, 0.676),
    Published("AMD MI355X", "MI355X", 8, 32, 2, 1, 1, 31383.6, 0.767),
]
CISCO_8_NODES = Published("Cisco hpf_n8", "H100", 64, 64, 1, 1, 1, 10801.9, 0.667)


def of_published(run: Published, recomputed: RecomputeGranularity = RecomputeGranularity.none) -> int:
    """Bytes of each GPU in its layout."""
    return estimate(
        recompute_granularity=recomputed,
        precision=Precision.fp8,
        nnodes=max(1, run.gpus // 8),
        gpus_per_node=min(8, run.gpus),
        gbs=run.global_batch_size,
        mbs=run.micro_batch_size,
        tensor_parallel_size=run.tensor_parallel,
        context_parallel_size=run.context_parallel,
    ).total


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.system)
def test_layouts_that_ran_fit(run: Published) -> None:
    assert of_published(run) <= GPUS[run.gpu].memory


def test_a_layout_that_fits_with_recomputation() -> None:
    """It ran on 80 GB, so it saved memory, as gradients in bf16 or recomputation would; how is not known."""
    assert of_published(CISCO_8_NODES) > GPUS["H100"].memory >= of_published(CISCO_8_NODES, SELECTIVE)


@pytest.mark.parametrize("run", [*PUBLISHED, CISCO_8_NODES], ids=lambda run: run.system)
def test_utilisation_follows_from_operations_and_peaks(run: Published) -> None:
    flops = run.tokens_per_second * speed.flops_per_token(Settings(), rules.VOCABULARY_SIZE)
    assert flops / GPUS[run.gpu].bf16_flops == pytest.approx(run.utilisation, abs=1e-3)


# Time and disk


def test_operations_of_a_run() -> None:
    settings = Settings()
    token = speed.flops_per_token(settings, rules.VOCABULARY_SIZE)
    assert token == pytest.approx(61.07e9, rel=1e-4)
    assert speed.flops_per_step(settings, rules.VOCABULARY_SIZE) == 32 * 8192 * token
    # 385 steps include one evaluation: 1,024 sequences, forward pass only.
    sequences = 385 * 32 + 1024 / 3
    assert speed.flops_to(384 * 32 + 1, settings, rules.VOCABULARY_SIZE) == pytest.approx(sequences * 8192 * token)


@pytest.mark.parametrize(
    ("recomputed", "layers", "ffns"),
    [
        ("each layer's FFN", 0, 32),
        ("each layer", 32, 0),
        ("units of two layers", 32, 0),
        ("three of four layers", 3, 0),
    ],
)
def test_recomputed_operations_take_time_but_are_no_model_flops(recomputed: str, layers: int, ffns: int) -> None:
    usual, settings = Settings(), replace(Settings(), **RECOMPUTED[recomputed])
    h, kv, f = 4096, 1024, 14336
    ffn = 2 * 3 * h * f
    layer = 2 * (2 * h * h + 2 * h * kv) + 4 * h * 8192 + ffn
    assert speed.recomputed_per_token(settings) == layers * layer + ffns * ffn
    vocabulary = rules.VOCABULARY_SIZE
    assert speed.flops_per_step(settings, vocabulary) == speed.flops_per_step(usual, vocabulary)
    more = speed.flops_to(64, settings, vocabulary) - speed.flops_to(64, usual, vocabulary)
    assert more == 64 * 8192 * speed.recomputed_per_token(settings)


def test_time_of_a_run() -> None:
    settings = replace(Settings(), nnodes=2, gpus_per_node=4)
    eight_seconds = 8 * 8 * GPUS["H200"].bf16_flops * speed.UTILISATION[Precision.bf16]
    assert speed.seconds(eight_seconds, settings, GPUS["H200"]) == pytest.approx(8)


@pytest.mark.parametrize(("precision", "size"), [(Precision.bf16, 112.4), (Precision.fp32, 128.5)])
def test_checkpoint_of_the_benchmark(precision: Precision, size: float) -> None:
    settings = replace(Settings(), precision=precision)
    assert round(disk.checkpoint(settings, rules.VOCABULARY_SIZE) / GB, 1) == size
