"""Weights, optimizer and schedule of the recipe for small models, compared with the benchmark's rules."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest
import torch
from connected_recipes import VOCABULARY, connected
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.optimizer import MegatronOptimizer
from nemo.lightning._strategy_lib import setup_megatron_optimizer
from one_rank import one_rank
from recipes import CPU
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama31.config.model_sizes import SIZES
from llama31.model.attention import ScaledDotProductAttention
from llama31.model.llama import model_config
from llama31.recipe import optimizer
from llama31.settings import Precision, Settings
from llama31.training.rng_state import SeedWeights


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
    """The part of NeMo's MegatronParallel from which it builds an optimizer."""

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
