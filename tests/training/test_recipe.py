"""The recipe against the benchmark's rules, its settings and NeMo's own recipe; nothing here allocates the 8b model."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fiddle
import nemo_run as run
import pytest
import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig
from megatron.core.transformer.transformer_config import TransformerConfig
from nemo.collections import llm
from nemo.collections.llm.gpt.model.llama import Llama31Config8B
from nemo.lightning import MegatronStrategy
from nemo.lightning._strategy_lib import setup_megatron_optimizer
from nemo.lightning.pytorch.callbacks import megatron_comm_overlap
from nemo.lightning.pytorch.callbacks.megatron_comm_overlap import MegatronCommOverlapCallback
from nemo.utils import AppState
from one_rank import one_rank
from recipes import BACKENDS, CPU, CUDA, CUDA_WITH_ENGINE, differing, flat, recipe
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config.model_sizes import SIZES, embedding_rows
from llama31.config.overlap import Overlap
from llama31.config.resolve import from_dict
from llama31.model import device
from llama31.model.attention import ScaledDotProductAttention
from llama31.model.device import Backend
from llama31.model.llama import model_config
from llama31.model.vocabulary import CheckRows
from llama31.recipe import optimizer, pretrain_recipe
from llama31.settings import Device, Precision, Settings
from llama31.training.seed import SeedWeights

VOCABULARY = 128_256  # Llama 3.1's tokenizer


@pytest.fixture
def with_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing of Transformer Engine that Megatron looks for when it makes a configuration."""
    monkeypatch.setattr(rope_utils, "fused_apply_rotary_pos_emb", object())


@dataclass
class Connected:
    """What a run's objects hold when NeMo has put settings of strategy and precision into all of them."""

    model: TransformerConfig
    strategy: MegatronStrategy
    ddp: DistributedDataParallelConfig
    optim: OptimizerConfig


def connected(settings: Settings, backend: Backend = CUDA_WITH_ENGINE) -> Connected:
    """Builds model, strategy, precision and optimizer, and connects them as NeMo does when training starts."""
    asked = recipe(settings, backend)
    model = llm.LlamaModel(fiddle.build(asked.model.config), tokenizer=SimpleNamespace(vocab_size=VOCABULARY))
    strategy = fiddle.build(asked.trainer.strategy)
    strategy._precision_plugin = fiddle.build(asked.trainer.plugins)
    fiddle.build(asked.optim).connect(model)
    strategy.connect(model)
    return Connected(model.config, strategy, strategy.ddp_config, model.optim.config)


# The model


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize("backend", BACKENDS)
def test_8b_has_the_dimensions_of_the_benchmark(backend: Backend) -> None:
    config = fiddle.build(model_config(Settings(), backend))
    assert isinstance(config, Llama31Config8B)
    expected = {
        "num_layers": 32,
        "hidden_size": 4096,
        "ffn_hidden_size": 14336,
        "num_attention_heads": 32,
        "num_query_groups": 8,
        "kv_channels": 128,
        "seq_length": 8192,
        "position_embedding_type": "rope",
        "rotary_base": 500_000,
        "rotary_percent": 1.0,
        "scale_factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "old_context_len": 8192,
        "activation_func": torch.nn.functional.silu,
        "gated_linear_unit": True,
        "normalization": "RMSNorm",
        "layernorm_epsilon": 1e-5,
        "add_bias_linear": False,
        "share_embeddings_and_output_weights": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "init_method_std": 0.02,
        "vocab_size": None,  # the tokenizer's
    }
    assert {name: getattr(config, name) for name in expected} == expected


TORCH_ALONE = {
    "transformer_layer_spec",
    "gradient_accumulation_fusion",
    "apply_rope_fusion",
    "masked_softmax_fusion",
    "persist_layer_norm",
}
CPU_ALONE = {
    "use_te_activation_func",
    "use_cpu_initialization",
    "deallocate_pipeline_outputs",
    "bias_activation_fusion",
    "bias_dropout_fusion",
    "cross_entropy_loss_fusion",
}


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize(
    ("backend", "kernels"),
    [(CUDA_WITH_ENGINE, set()), (CUDA, TORCH_ALONE), (CPU, TORCH_ALONE | CPU_ALONE)],
    ids=["engine", "cuda", "cpu"],
)
def test_8b_is_nemos_but_for_length_steps_and_kernels(backend: Backend, kernels: set[str]) -> None:
    found, nemos = flat(model_config(Settings(), backend)), flat(run.Config(Llama31Config8B))
    assert differing(found, nemos) <= {
        "seq_length", "data_step_fn", "forward_step_fn", "attention_dropout", "hidden_dropout", *kernels
    }  # fmt: skip
    ours, stock = (vars(fiddle.build(model_config(Settings(), backend))), vars(Llama31Config8B()))
    plain = {name for name, value in stock.items() if isinstance(value, int | float | str | None)}
    assert differing({name: ours[name] for name in plain}, {name: stock[name] for name in plain}) <= {
        "seq_length", *kernels
    }  # fmt: skip


@pytest.mark.parametrize("backend", [CUDA, CUDA_WITH_ENGINE])
def test_the_compiled_loss_is_for_mixed_precision(backend: Backend, with_engine: None) -> None:
    for precision in Precision:
        config = fiddle.build(model_config(Settings(precision=precision), backend))
        assert config.cross_entropy_loss_fusion == (precision is not Precision.fp32), "its gradient is bf16"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", sorted(set(SIZES) - {rules.SIZE}))
def test_small_sizes_differ_in_their_dimensions_alone(
    size: str,
    backend: Backend,
    with_engine: None,
) -> None:
    small = vars(fiddle.build(model_config(Settings(size=size), backend)))
    large = vars(fiddle.build(model_config(Settings(), backend)))
    functions = {name for name, value in large.items() if "init_method" in name and callable(value)}
    assert differing(small, large) - functions - {"__io__"} == {
        "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels"
    }  # fmt: skip
    shape = SIZES[size]
    assert small["num_layers"] == shape.layers
    assert small["num_query_groups"] == shape.key_value_heads


@pytest.fixture(scope="module")
def rank() -> Iterator[None]:
    with one_rank():
        yield


def made(size: str, vocabulary: int, **more: Any) -> torch.nn.Module:
    config = fiddle.build(model_config(Settings(size=size), CPU))
    for name, value in more.items():
        setattr(config, name, value)
    return config.configure_model(SimpleNamespace(vocab_size=vocabulary))


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("size", SIZES)
def test_models_have_the_parameters_that_sizes_counts(size: str) -> None:
    model = made(size, VOCABULARY, init_model_with_meta_device=True)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}, "nothing may be allocated"
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES[size].parameters(VOCABULARY)


def test_8b_has_the_parameters_of_llama() -> None:
    assert SIZES["8b"].parameters(VOCABULARY) == 8_030_261_248


@pytest.mark.usefixtures("rank")
def test_initial_weights_have_the_spread_that_the_configuration_says() -> None:
    model = made("demo", 512)
    layers = SIZES["demo"].layers
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight)), name
            continue
        residual = "linear_proj" in name or "linear_fc2" in name
        expected = 0.02 / math.sqrt(2 * layers) if residual else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.03), name


@pytest.mark.usefixtures("rank")
def test_rotary_frequencies_are_llama_31s() -> None:
    shape = SIZES["demo"]
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        num_attention_heads=shape.attention_heads,
        max_position_embeddings=131_072,
        rope_theta=500_000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    expected, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    assert torch.allclose(made("demo", 512).rotary_pos_emb.inv_freq, expected, rtol=1e-6)


@pytest.mark.usefixtures("rank")
def test_without_transformer_engine_attention_is_torchs() -> None:
    layers = made("tiny", 512).decoder.layers
    assert {type(layer.self_attention.core_attention) for layer in layers} == {ScaledDotProductAttention}


@pytest.mark.usefixtures("rank")
def test_initial_weights_come_from_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        SeedWeights(seed).setup(SimpleNamespace(), SimpleNamespace(), "fit")
        return torch.cat([parameter.flatten() for parameter in made("tiny", 512).parameters()])

    first = weights(0)
    assert torch.equal(weights(0), first)
    assert not torch.equal(weights(1), first)
    assert len(weights(2**31 - 1)) == len(first), "the largest seed that SEEDS takes"


# The optimizer


class Chunks(list):
    """As much of NeMo's MegatronParallel as it makes an optimizer from."""

    ddp_config = None


def made_with_optimizer(settings: Settings) -> tuple[torch.nn.Module, MegatronOptimizer]:
    """A model, and its optimizer as NeMo's MegatronOptimizerModule makes it."""
    low = settings.precision is Precision.bf16
    model = made("tiny", 512, bf16=low)
    ddp = DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True)
    wrapped = DistributedDataParallel(model.config, ddp, model.bfloat16() if low else model)
    chunks = Chunks([SimpleNamespace(module=wrapped)])
    condition = fiddle.build(optimizer(settings)).no_weight_decay_cond
    config = connected(settings, CPU).optim
    return model, setup_megatron_optimizer(chunks, config, no_weight_decay_cond=condition).mcore_optimizer


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
def test_the_optimizer_is_the_benchmarks(precision: Precision) -> None:
    model, built = made_with_optimizer(Settings(size="tiny", precision=precision))
    assert built.config.clip_grad == 1.0
    (inner,) = (part.optimizer for part in built.chained_optimizers)
    assert isinstance(inner, torch.optim.AdamW), "decoupled weight decay"
    decays = {}
    for group in inner.param_groups:
        assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.95), 1e-5, 8e-4)
        decays[group["weight_decay"]] = sum(weight.numel() for weight in group["params"])
        assert {weight.dtype for weight in group["params"]} == {torch.float32}, "master weights"
    norms = sum(weight.numel() for weight in model.parameters() if weight.dim() == 1)
    assert decays == {0.1: SIZES["tiny"].parameters(512) - norms, 0.0: norms}, "norms do not decay"


@pytest.mark.usefixtures("rank")
@pytest.mark.parametrize("decay_norms", [False, True])
def test_a_step_without_gradients_shrinks_what_decays(decay_norms: bool) -> None:
    settings = Settings(size="tiny", precision=Precision.fp32, decay_norms=decay_norms)
    model, built = made_with_optimizer(settings)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    built.zero_grad()
    assert built.step()[0]
    for name, weight in model.named_parameters():
        decays = decay_norms or "norm" not in name
        expected = before[name] * (1 - settings.max_lr * 0.1) if decays else before[name]
        assert torch.equal(weight, before[name]) is not decays, name
        torch.testing.assert_close(weight, expected, rtol=1e-7, atol=0, msg=name)


def test_the_optimizer_has_the_rules_of_the_benchmark() -> None:
    config = fiddle.build(optimizer(Settings())).config
    assert config.optimizer == "adam"
    assert config.decoupled_weight_decay
    assert (config.adam_beta1, config.adam_beta2, config.adam_eps) == (0.9, 0.95, 1e-5)
    assert (config.weight_decay, config.clip_grad, config.lr) == (0.1, 1.0, 8e-4)


SCHEDULES = {
    "default": Settings(),
    "own": Settings(gbs=16, max_lr=4e-4, min_lr=1e-6, warmup_steps=16, max_steps=1000),
    "without warmup": Settings(warmup_steps=0, max_steps=100),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_is_linear_warmup_then_cosine(name: str) -> None:
    settings = SCHEDULES[name]
    warmup, last = settings.warmup, settings.max_steps
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.max_lr)
    made = fiddle.build(optimizer(settings)).lr_scheduler.scheduler(None, dummy)["lr_scheduler"]
    assert (made["interval"], made["frequency"]) == ("step", 1)

    def expected(step: int) -> float:
        """Learning rate of a step, counted from 1: NeMo's warmup neither starts at 0 nor ends at `warmup`."""
        done = step - 1
        if done < warmup:
            return settings.max_lr * (done + 1) / (warmup + 1)
        progress = (done - warmup) / (last - warmup)
        return settings.end_lr + (settings.max_lr - settings.end_lr) * (1 + math.cos(math.pi * progress)) / 2

    scheduler = made["scheduler"]
    for step in sorted({*range(1, 6), *range(max(1, warmup - 1), warmup + 4), last // 2, last - 1, last, last + 1}):
        scheduler.last_epoch = step - 2  # steps that ended before the former one
        dummy.step()
        scheduler.step()
        assert dummy.param_groups[0]["lr"] == pytest.approx(expected(step), rel=1e-9), f"step {step}"
    assert dummy.param_groups[0]["lr"] == pytest.approx(settings.end_lr), "step max_steps + 1 has reached the end"
    scheduler.step()
    assert dummy.param_groups[0]["lr"] == settings.end_lr, "and there it stays"


def test_the_default_schedule_is_that_of_the_rules() -> None:
    schedule = fiddle.build(optimizer(Settings())).lr_scheduler
    assert (schedule.warmup_steps, schedule.max_steps, schedule.min_lr) == (512, 1_200_000, 8e-5)
    assert schedule.constant_steps == 0


# Layout and precision

LAYOUTS = [
    {"gpus_per_node": 8},
    {"nnodes": 4, "gpus_per_node": 8, "tensor_parallel_size": 4, "sequence_parallel": True},
    {"gpus_per_node": 8, "pipeline_parallel_size": 4},
    {"gpus_per_node": 8, "pipeline_parallel_size": 2, "virtual_pipeline_size": 4, "mbs": 2},
    {"gpus_per_node": 8, "context_parallel_size": 2, "tensor_parallel_size": 2},
]


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_model_and_strategy_hold_the_layout(layout: dict[str, Any]) -> None:
    settings = Settings(**layout)
    built = connected(settings)
    for held in (built.strategy, built.model):
        assert held.tensor_model_parallel_size == settings.tensor_parallel_size
        assert held.pipeline_model_parallel_size == settings.pipeline_parallel_size
        virtual = settings.virtual_pipeline_size
        assert held.virtual_pipeline_model_parallel_size == (virtual if virtual > 1 else None)
        assert held.context_parallel_size == settings.context_parallel_size
        assert held.sequence_parallel is settings.sequence_parallel
        assert held.expert_model_parallel_size == 1
    assert built.model.overlap_p2p_comm is (settings.virtual_pipeline_size > 1)
    assert built.model.batch_p2p_comm is (settings.virtual_pipeline_size == 1)
    asked = recipe(settings).trainer
    assert (asked.num_nodes, asked.devices, asked.accelerator) == (settings.nnodes, settings.gpus_per_node, "gpu")


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_reduced_in_fp32_into_a_distributed_optimizer(backend: Backend) -> None:
    built = connected(Settings(), backend)
    on_gpu = backend.accelerator == "gpu"
    assert built.strategy._process_group_backend == ("nccl" if on_gpu else "gloo")
    assert built.ddp.grad_reduce_in_fp32
    assert built.ddp.use_distributed_optimizer
    assert built.optim.use_distributed_optimizer
    assert built.ddp.average_in_collective == on_gpu


OFF, DATA_RANKS = Overlap(False, False, False), {"gpus_per_node": 2}
TENSOR_RANKS = {"gpus_per_node": 2, "tensor_parallel_size": 2, "sequence_parallel": True}


@pytest.mark.parametrize(
    ("changes", "backend", "expected"),
    [
        ({}, CUDA, OFF),
        (DATA_RANKS, CPU, OFF),
        (DATA_RANKS, CUDA, Overlap(True, True, False)),
        ({**DATA_RANKS, "context_parallel_size": 2}, CUDA_WITH_ENGINE, Overlap(True, True, False)),
        ({**DATA_RANKS, "pipeline_parallel_size": 2}, CUDA, OFF),
        ({**DATA_RANKS, "overlap_param_gather": False}, CUDA, Overlap(True, False, False)),
        ({**DATA_RANKS, "overlap_grad_reduce": False}, CUDA, OFF),
        ({**DATA_RANKS, "overlap_grad_reduce": True}, CPU, Overlap(True, True, False)),
        (TENSOR_RANKS, CUDA_WITH_ENGINE, Overlap(False, False, True)),
        ({**TENSOR_RANKS, "tp_comm_overlap": False}, CUDA_WITH_ENGINE, OFF),
        ({**TENSOR_RANKS, "gpus_per_node": 1, "nnodes": 2}, CUDA_WITH_ENGINE, OFF),
    ],
)
@pytest.mark.usefixtures("with_engine")
def test_communication_is_overlapped_where_the_layout_allows_it(
    changes: dict[str, Any], backend: Backend, expected: Overlap
) -> None:
    settings = replace(Settings(), **changes)
    assert Overlap.of(settings, on_gpu=backend.accelerator == "gpu") == expected
    built = connected(settings, backend)
    assert (built.ddp.overlap_grad_reduce, built.ddp.overlap_param_gather) == (
        expected.grad_reduce,
        expected.param_gather,
    )
    callbacks = [fiddle.build(callback) for callback in recipe(settings, backend).trainer.callbacks]
    found = [callback for callback in callbacks if isinstance(callback, MegatronCommOverlapCallback)]
    assert len(found) == expected.tensor_parallel


@pytest.mark.parametrize("overlap_grad_reduce", [True, False])
@pytest.mark.usefixtures("with_engine")
def test_nemos_callback_leaves_the_other_overlap_as_it_is(
    overlap_grad_reduce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(Settings(), **{**TENSOR_RANKS, "gpus_per_node": 4}, overlap_grad_reduce=overlap_grad_reduce)
    built = connected(settings)
    trainer = SimpleNamespace(
        strategy=built.strategy, model=SimpleNamespace(config=built.model, optim=SimpleNamespace(config=built.optim))
    )
    monkeypatch.setattr(megatron_comm_overlap, "HAVE_TE", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    for name, size in (("data", 2), ("tensor_model", 2), ("context", 1)):
        monkeypatch.setattr(AppState(), f"{name}_parallel_size", size)
    for callback in recipe(settings).trainer.callbacks:
        if callback.__fn_or_cls__ is MegatronCommOverlapCallback:
            fiddle.build(callback).setup(trainer, trainer.model, "fit")
    assert built.model.tp_comm_overlap
    assert (built.ddp.overlap_grad_reduce, built.ddp.overlap_param_gather) == (overlap_grad_reduce,) * 2
    assert built.optim.overlap_param_gather == overlap_grad_reduce
    assert not built.ddp.align_param_gather


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize("precision", Precision)
def test_model_and_optimizer_hold_the_precision(precision: Precision) -> None:
    built = connected(Settings(precision=precision, pipeline_parallel_size=2))
    low = precision is not Precision.fp32
    dtype = torch.bfloat16 if low else torch.float32
    assert built.model.bf16 is built.optim.bf16 is low
    assert not built.model.fp16
    assert not built.optim.fp16
    assert built.model.params_dtype is built.model.pipeline_dtype is dtype
    assert not built.model.enable_autocast
    assert built.optim.main_params_dtype is built.optim.exp_avg_dtype is torch.float32
    eight = precision is Precision.fp8
    assert built.model.fp8 == ("hybrid" if eight else None)
    assert built.ddp.fp8_param_gather is eight
    if eight:
        recipe_ = (built.model.fp8_recipe, built.model.fp8_amax_history_len, built.model.fp8_amax_compute_algo)
        assert recipe_ == ("delayed", 1024, "max")
        assert not built.model.fp8_dot_product_attention, "the MLPerf log says that attention is in bf16"


# NeMo's own recipe


def test_where_the_benchmark_says_nothing_it_is_nemos_recipe() -> None:
    nemos = llm.recipes.llama31_8b.pretrain_recipe(num_nodes=1, num_gpus_per_node=8)
    ours = recipe(Settings(gpus_per_node=8, context_parallel_size=2, max_lr=3e-4, warmup_steps=2000))

    def difference(part: str) -> set[str]:
        one, other = (flat(asked) for asked in (ours, nemos))
        return {path for path in differing(one, other) if path.startswith(part)}

    model = "model.config."
    # Dropout is 0 in NeMo's configuration too.
    assert difference("model.config") == {
        f"{model}{name}" for name in ("data_step_fn", "forward_step_fn", "attention_dropout", "hidden_dropout")
    }
    # NeMo leaves the schedule's length to the trainer, rounds 0.1 x its learning rate otherwise, and names fp16.
    assert difference("optim") == {
        "optim.lr_scheduler.max_steps", "optim.lr_scheduler.min_lr", "optim.config.fp16"
    }  # fmt: skip
    assert difference("trainer.plugins") == set()
    assert difference("trainer.strategy") == {
        "trainer.strategy.process_group_backend",  # NeMo leaves NCCL to Lightning
        "trainer.strategy.pipeline_dtype",  # the precision's, in both
        "trainer.strategy",  # NeMo's, with what loads a checkpoint where Transformer Engine is absent
        "trainer.strategy.ckpt_async_save",
        "trainer.strategy.ckpt_optim_fully_reshardable",  # other layouts go on from a checkpoint
        "trainer.strategy.distrib_optim_fully_reshardable_mem_efficient",
        "trainer.strategy.ckpt_parallel_load",  # NeMo's default
        "trainer.strategy.replace_progress_bar",
        "trainer.strategy.ddp.check_for_nan_in_grad",  # a loss that is not finite ends the run
        "trainer.strategy.ddp.use_distributed_optimizer",  # NeMo's follows from the optimizer's
    }


def test_the_seed_reaches_the_weights_and_the_data() -> None:
    before, after = (flat(recipe(Settings(), seed=seed)) for seed in (1, 2))
    assert differing(before, after) == {"data.seed", "trainer.callbacks[0].seed"}
    assert after["trainer.callbacks[0]"] is SeedWeights


@pytest.mark.parametrize(
    ("gbs", "eval_samples", "interval", "batches"), [(32, 1024, 384, 32), (16, 1024, 768, 64), (96, 1000, 128, 11)]
)
def test_evaluations_come_as_often_as_the_rules_say(gbs: int, eval_samples: int, interval: int, batches: int) -> None:
    asked = recipe(Settings(gbs=gbs, eval_samples=eval_samples)).trainer
    assert asked.val_check_interval == interval
    assert asked.limit_val_batches == batches
    assert asked.check_val_every_n_epoch is None, "the interval counts steps from the start, over epochs"
    assert asked.num_sanity_val_steps == 0, "no evaluation before training"


def test_the_whole_recipe_can_be_built(tiny_data: dict[str, str], tmp_path: Path) -> None:
    values = {name.lower(): value for name, value in tiny_data.items()}
    settings = from_dict({**values, "gpus_per_node": 2, "tensor_parallel_size": 2, "gbs": 16, "seq_length": 64})
    built = fiddle.build(pretrain_recipe(settings, CPU, 7, tmp_path)).keywords
    trainer, data = built["trainer"], built["data"]
    assert (trainer.num_nodes, trainer.num_devices, trainer.max_steps) == (1, 2, 1_200_000)
    assert (trainer.val_check_interval, trainer.limit_val_batches) == (768, 64)
    assert trainer.strategy.tensor_model_parallel_size == 2
    assert (data.global_batch_size, data.micro_batch_size, data.seq_length, data.seed) == (16, 1, 64, 7)
    assert (data.num_workers, data.pin_memory, data.create_attention_mask) == (0, False, False)
    assert built["model"].config.seq_length == 64
    assert built["model"].tokenizer.vocab_size == built["data"].tokenizer.vocab_size == 512


def test_rows_that_the_plan_does_not_say() -> None:
    """On each rank, which holds its share of them."""
    module = torch.nn.Module()
    module.word_embeddings = torch.nn.Embedding(embedding_rows(500, 2) // 2, 4)
    settings = from_dict({"tensor_parallel_size": 2})
    CheckRows(settings, 500).on_train_start(SimpleNamespace(), module)
    with pytest.raises(UserError, match=r"word_embeddings\.weight: has 512 rows, 513 ids need 768") as error:
        CheckRows(settings, 513).on_train_start(SimpleNamespace(), module)
    assert len(error.value.lines) == 1


# Devices


@pytest.mark.parametrize(
    ("asked", "has_cuda", "has_engine", "expected"),
    [
        (Device.auto, False, False, CPU),
        (Device.auto, True, False, CUDA),
        (Device.auto, True, True, CUDA_WITH_ENGINE),
        (Device.cuda, True, True, CUDA_WITH_ENGINE),
        (Device.cpu, True, True, CPU),
    ],
)
def test_the_device_is_what_is_asked_for_and_there(
    asked: Device, has_cuda: bool, has_engine: bool, expected: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda _: object() if has_engine else None)
    assert device.detect(Settings(device=asked)) == expected


def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^DEVICE=cuda: .* DEVICE=cpu works"):
        device.detect(Settings(device=Device.cuda))


@pytest.mark.parametrize("backend", [CPU, CUDA])
def test_what_needs_transformer_engine_is_refused_without_it_all_at_once(backend: Backend) -> None:
    settings = Settings(precision=Precision.fp8, context_parallel_size=2, sequence_parallel=True)
    with pytest.raises(UserError) as failure:
        device.require(settings, backend)
    assert [line.partition(":")[0] for line in failure.value.lines] == [
        "PRECISION=fp8", "CONTEXT_PARALLEL_SIZE=2", "SEQUENCE_PARALLEL=1"
    ]  # fmt: skip
    assert device.require(settings, CUDA_WITH_ENGINE) is CUDA_WITH_ENGINE
    assert device.require(Settings(), backend) is backend
