"""The bench of a training step on a GPU: its cases on the CPU, its choice of layers, its figures."""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest
import torch
from megatron.core.distributed import param_and_grad_buffer
from nemo.lightning.pytorch.plugins.mixed_precision import update_config_with_dtype_overrides
from one_rank import one_rank
from recipes import CPU, CUDA
from runs import REPOSITORY

from dev.bench import gpu_step, gpu_trainers, megatron_alone
from dev.bench.gpu_step import SIZE, SMALL, Case
from llama31 import recipe, rules
from llama31.config.model_sizes import SIZES
from llama31.config.recompute import instead
from llama31.estimates import memory, speed
from llama31.estimates.gpus import GB, GPUS
from llama31.model import cpu_backend
from llama31.model.llama import model_config
from llama31.settings import Device, Precision, RecomputeGranularity, Settings

pytestmark = pytest.mark.slow

H200 = 143_771 * 2**20  # bytes, as nvidia-smi shows them; the data sheet's 141 GB are less
ON_CPU = Settings(size=SIZE, device=Device.cpu, seq_length=64, gbs=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, SIZE, SMALL)


WITHOUT_NEMO = """
import sys


class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        absent = name.partition(".")[0] in ("nemo", "nemo_run", "lightning", "fiddle")
        return None if absent else self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Without, sys.meta_path)
"""
"""What Python executes when it starts, so that it finds none of NeMo."""


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dev.bench.gpu_step", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_gpu_it_says_so() -> None:
    done = bench()
    line = "torch finds no GPU; --device cpu tests the bench with small layers\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_mistakes_are_one_line() -> None:
    done = bench("--device", "cpu", "GBS=3", "MBS=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "GBS=3 is not a multiple of data parallel*MBS=1*2; GBS=2 or GBS=4 works\n"


def test_a_case_trains_in_a_process_of_its_own_without_nemo(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_NEMO)
    arguments = ("--device", "cpu", "--steps", "2", "--only", "megatron not compiled", "PRECISION=fp32")
    done = bench(*arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    _, left_out, titles, figures = done.stdout.splitlines()
    assert left_out.startswith("Transformer Engine and fp8: skipped")
    assert titles.split()[:4] == ["case", "layers", "vocabulary", "s/step"]
    name, rest = figures[: len("megatron not compiled fp32")], figures[len("megatron not compiled fp32") :].split()
    assert (name, rest[:2], rest[-1]) == ("megatron not compiled fp32", ["2", "1,024"], "1.00")


def loss_of(trainer: str, settings: Settings) -> float:
    found = gpu_trainers.train(Case(trainer, SMALL, 1024, settings, compiled=False), steps=1)
    assert len(found["seconds"]) == 1 and found["memory"] > 0
    return found["loss"]


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
def test_all_trainers_begin_at_the_loss_of_random_tokens(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(ON_CPU, precision=precision)
    plain = loss_of("megatron", settings)
    assert plain == pytest.approx(math.log(1024), abs=0.2)
    assert loss_of("torch", settings) == pytest.approx(math.log(1024), abs=0.2)
    for granularity in (RecomputeGranularity.selective, RecomputeGranularity.full):
        assert loss_of("megatron", instead(settings, granularity)) == plain
    monkeypatch.setattr(gpu_trainers, "nemo_is_there", lambda: False)
    assert loss_of("megatron", settings) == plain, "dev/bench/megatron_alone.py is not what the recipe trains"


def test_a_single_rank_sends_nothing_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, where gloo would copy its gradients; nothing else changes by it."""
    sent = []
    for name in ("dist_reduce_scatter_func", "dist_all_gather_func"):
        stock = getattr(param_and_grad_buffer, name)
        counted = partial(lambda stock, *these, **those: sent.append(stock) or stock(*these, **those), stock)
        monkeypatch.setattr(param_and_grad_buffer, name, counted)
    settings = replace(ON_CPU, precision=Precision.fp32)
    alone = loss_of("megatron", settings)
    assert not sent
    monkeypatch.setattr(cpu_backend, "_unless_single", lambda synchronise: synchronise)
    assert loss_of("megatron", settings) == alone
    assert sent


def test_the_fused_optimizer_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(ON_CPU, precision=Precision.fp32)  # in bf16 the last bits of a weight depend on the processor
    fused = loss_of("megatron", settings)
    stock = torch.optim.AdamW.step

    def plain(optimizer: torch.optim.AdamW) -> object:
        for group in optimizer.param_groups:
            assert group["fused"]
            group["fused"] = False
        try:
            return stock(optimizer)
        finally:
            for group in optimizer.param_groups:
                group["fused"] = True

    monkeypatch.setattr(torch.optim.AdamW, "step", plain)
    assert loss_of("megatron", settings) == pytest.approx(fused, rel=1e-5)


def test_without_nemo_the_model_has_the_modules_of_the_recipes() -> None:
    with one_rank():
        recipes = fiddle.build(model_config(ON_CPU, CPU)).configure_model(SimpleNamespace(vocab_size=1024))
        config, _, _ = megatron_alone.configurations(replace(ON_CPU, precision=Precision.fp32))
        assert str(megatron_alone.model(config, ON_CPU, 1024)) == str(recipes)


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp32])
def test_without_nemo_a_gpu_gets_what_the_recipe_says(precision: Precision) -> None:
    """Return Megatron's configurations without the fields for pipelines, its own attention, fp8 and timers."""
    settings = replace(ON_CPU, device=Device.cuda, precision=precision)
    described = (
        model_config(settings, CUDA),
        recipe.strategy(settings, CUDA).ddp,
        recipe.optimizer(settings).config,
    )
    overrides = fiddle.build(recipe.precision(settings)).dtype_config
    differ = set()
    for description, alone in zip(described, megatron_alone.configurations(settings), strict=True):
        ours = update_config_with_dtype_overrides(overrides, fiddle.build(description))
        differ |= {
            field.name
            for field in fields(alone)
            if str(getattr(ours, field.name)) != str(getattr(alone, field.name))  # functions have no equality
        }
    assert differ == {
        "pipeline_dtype", "deallocate_pipeline_outputs", "attention_softmax_in_fp32", "fp8_recipe",
        "num_layers_at_start_in_bf16", "num_layers_at_end_in_bf16",
    }  # fmt: skip


def test_as_many_layers_as_fit() -> None:
    settings, shape = Settings(size=SIZE, device=Device.cuda, gbs=1), SIZES["8b"]

    def needed(layers: int, settings: Settings, vocabulary: int = rules.VOCABULARY_SIZE) -> int:
        SIZES[SIZE] = replace(shape, layers=layers)
        return memory.per_gpu(settings, vocabulary).total

    layers = gpu_step.fitting_layers(settings, shape, rules.VOCABULARY_SIZE, H200)
    assert needed(layers, settings) <= H200 < needed(layers + 1, settings)
    full = instead(settings, RecomputeGranularity.full)
    assert needed(32, full, rules.VOCABULARY_SIZE // 4) <= H200 < needed(32, full)


def test_fewer_layers_where_memory_runs_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    def in_child(content: str, environment: Mapping[str, str]) -> dict[str, Any]:
        if content == "device":
            return {"name": "NVIDIA H200", "memory": H200, "torch": "2.13"}
        layers = json.loads(content)["shape"]["layers"]
        tried.append(layers)
        return {"failed": "out of memory"} if 18 < layers < 32 else {"seconds": [1.0], "memory": 99 * GB}

    monkeypatch.setattr(gpu_step, "in_child", in_child)
    monkeypatch.setattr(gpu_step.devices, "gpus", lambda: 1)
    options = argparse.Namespace(device="cuda", settings=[], layers=22, steps=1, only="torch bf16")
    assert gpu_step.measure(options), "it is no failure"
    assert tried == [22, 20, 18, 32]
    *_, fewer, every = capsys.readouterr().out.splitlines()
    assert fewer.split()[:4] == ["torch", "bf16", "18", "128,256"]
    assert every.split()[:5] == ["torch", "bf16", "full", "32", "32,064"]


def test_figures_follow_the_formula() -> None:
    settings = Settings(size=SIZE, device=Device.cuda, gbs=2)
    case = Case("megatron", SIZES["8b"], rules.VOCABULARY_SIZE, settings)
    flops = speed.flops_per_step(Settings(gbs=2), rules.VOCABULARY_SIZE)
    peak = GPUS["H200"].bf16_flops
    line, rate = gpu_step.row(case, {"seconds": [9.0, 2.0, 1.0], "memory": 99 * GB}, peak, flops / 4)
    assert rate == flops / 2
    expected = ["2.000", f"{16384 / 2:,.0f}", f"{flops / 2e12:.2f}", f"{flops / 2 / peak:.1%}", "99.0", "2.00"]
    assert line.split()[-6:] == expected
    assert gpu_step.row(case, {"failed": "out of memory"}, peak, None) == (
        f"{'megatron bf16':<34}     32    128,256  out of memory",
        None,
    )
