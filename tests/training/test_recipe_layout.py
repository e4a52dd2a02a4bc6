"""Layout, overlap and precision: the recipe's settings reach all objects that hold them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest
import torch
from connected_recipes import connected
from nemo.lightning.pytorch.callbacks import megatron_comm_overlap
from nemo.lightning.pytorch.callbacks.megatron_comm_overlap import MegatronCommOverlapCallback
from nemo.utils import AppState
from recipes import BACKENDS, CPU, CUDA, CUDA_WITH_ENGINE, recipe

from llama31.config.overlap import Overlap
from llama31.model.device import Backend
from llama31.settings import Precision, Settings

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
    assert built.model.fp8 == ("hybrid" if precision is Precision.fp8 else None)
    assert built.model.fp4 == ("nvfp4" if precision is Precision.nvfp4 else None)
