"""The recipe against the benchmark's model, NeMo's own recipe and devices; nothing here allocates the 8b model."""

from pathlib import Path
from types import SimpleNamespace

import fiddle
import nemo_run as run
import pytest
import torch
from nemo.collections import llm
from nemo.collections.llm.gpt.model.llama import Llama31Config8B
from recipes import BACKENDS, CPU, CUDA, CUDA_WITH_ENGINE, differing, flat, recipe

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import transformer_engine
from llama31.config.model_sizes import SIZES, embedding_rows
from llama31.config.resolve import from_dict
from llama31.model import device
from llama31.model.device import Backend
from llama31.model.llama import model_config
from llama31.model.vocabulary import CheckRows
from llama31.recipe import pretrain_recipe
from llama31.settings import Device, Precision, Settings
from llama31.training.rng_state import SeedWeights

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
def test_8b_is_nemos_except_for_length_steps_and_kernels(backend: Backend, kernels: set[str]) -> None:
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
def test_small_sizes_differ_only_in_their_dimensions(
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
        "trainer.strategy.ckpt_optim_fully_reshardable",  # jobs with other layouts resume from it
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
    monkeypatch.setattr(transformer_engine.importlib.util, "find_spec", lambda _: object() if has_engine else None)
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
    works = ("PRECISION=bf16", "CONTEXT_PARALLEL_SIZE=1", "SEQUENCE_PARALLEL=0")
    assert all(line.endswith(f"; {change} works") for line, change in zip(failure.value.lines, works, strict=True))
    assert device.require(settings, CUDA_WITH_ENGINE) is CUDA_WITH_ENGINE
    assert device.require(Settings(), backend) is backend
