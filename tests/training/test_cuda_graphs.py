"""CUDA_GRAPHS: what is built, what is refused, and evaluations whose batches NeMo reads before a graph is replayed."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fiddle
import pytest
import torch
from megatron.core import full_cuda_graph
from megatron.core.full_cuda_graph import FullCudaGraphWrapper
from nemo.lightning import megatron_parallel
from nemo.lightning.megatron_parallel import CallbackConnector, MegatronStep
from one_rank import one_rank
from recipes import CUDA_WITH_ENGINE, recipe

from llama31.common.errors import UserError
from llama31.config import cuda_graphs
from llama31.model import llama
from llama31.plan import validate
from llama31.settings import CudaGraphs, Device, RecomputeGranularity, Settings
from llama31.training.strategy import ResumableStrategy

ON_GPU = Settings(device=Device.cuda)
LAYER, FULL = (replace(ON_GPU, cuda_graphs=value) for value in (CudaGraphs.layer, CudaGraphs.full_iteration))


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize(
    ("settings", "implementation", "scope"),
    [(ON_GPU, "none", "full"), (LAYER, "local", "full"), (FULL, "local", "full_iteration")],
)
def test_megatron_is_built_with_graphs(settings: Settings, implementation: str, scope: str) -> None:
    """The configuration that each layer reads, and the strategy that initialises the random states."""
    made = recipe(settings, CUDA_WITH_ENGINE)
    config = fiddle.build(made.model.config)
    assert (config.cuda_graph_impl, config.cuda_graph_scope) == (implementation, scope)
    strategy = fiddle.build(made.trainer.strategy)
    assert strategy.parallelism.use_te_rng_tracker is (implementation != "none")
    assert not strategy.ddp_config.check_for_nan_in_grad, "it would wait for the GPU within a graph"


@pytest.mark.usefixtures("with_engine")
def test_stages_do_not_wait_for_the_host_within_a_graph() -> None:
    staged = {"pipeline_parallel_size": 2, "gpus_per_node": 2}
    waits = [fiddle.build(recipe(replace(one, **staged)).model.config).batch_p2p_sync for one in (LAYER, FULL)]
    assert waits == [True, False]


@pytest.mark.usefixtures("with_engine")
@pytest.mark.parametrize(("settings", "wrapped"), [(LAYER, False), (FULL, True)])
def test_nemo_wraps_the_whole_iteration(settings: Settings, wrapped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    config = fiddle.build(recipe(settings).model.config)
    pipeline = SimpleNamespace(pipeline=SimpleNamespace(config=config))
    step = MegatronStep(pipeline=pipeline, data=None, forward_step_func=None, forward_only=False)
    with one_rank():
        assert isinstance(step.forward_backward_func, FullCudaGraphWrapper) is wrapped
    assert megatron_parallel.HAVE_FULL_CUDA_GRAPH


OFF = "CUDA_GRAPHS=none"
WORKS = f"{OFF} works"


def lines(settings: Settings) -> list[str]:
    return [line for line in validate.lines(settings) if "CUDA_GRAPHS" in line]


def test_graphs_that_cannot_work_are_refused() -> None:
    assert lines(LAYER) == lines(FULL) == []
    (line,) = lines(replace(LAYER, device=Device.cpu))
    assert line == f"CUDA_GRAPHS=layer: needs CUDA and Transformer Engine, this runs on the CPU; {WORKS}"
    (line,) = lines(replace(FULL, recompute_granularity=RecomputeGranularity.full))
    assert line == (
        "CUDA_GRAPHS=full_iteration: Megatron-Core records no graphs with RECOMPUTE_GRANULARITY=full; "
        f"{OFF} or RECOMPUTE_GRANULARITY={WORKS.partition('=')[2]}"
    )


@pytest.mark.usefixtures("with_engine")
def test_megatron_refuses_recomputation_with_graphs_itself() -> None:
    made = recipe(replace(LAYER, recompute_granularity=RecomputeGranularity.full))
    with pytest.raises(ValueError, match="CUDA graphs not supported with activation recomputation"):
        fiddle.build(made.model.config)


def test_an_unsafe_allocator_is_refused() -> None:
    unsafe = {cuda_graphs.ALLOCATOR: "garbage_collection_threshold:0.8,expandable_segments:True"}
    with pytest.raises(UserError, match=r"^CUDA_GRAPHS=layer: not safe with expandable_segments:True"):
        cuda_graphs.check_allocator(LAYER, unsafe)
    cuda_graphs.check_allocator(ON_GPU, unsafe)
    cuda_graphs.check_allocator(LAYER, {})


class Counter:
    """As BenchmarkCallback: counts the fingerprints of batches."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_megatron_microbatch_start(self, batch: dict[str, Any], **_: Any) -> None:
        self.found += [int(value) for value in batch.get("fingerprint", ())]


def batches(first: int) -> Iterator[tuple[dict[str, torch.Tensor], int, int]]:
    """Batches of an evaluation, as NeMo's loader gives them."""
    for number in range(first, first + 2):
        numbers = torch.full((1, 4), number)
        batch = {name: numbers.clone() for name in ("tokens", "labels", "position_ids")}
        yield {**batch, "loss_mask": torch.ones(1, 4), "fingerprint": torch.tensor([number])}, number, 0


def test_evaluations_count_sequences_that_are_read_before_a_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron's wrapper reads the batches of three steps; the graph is a function that calls nothing back.

    Recording is replaced, since there is no GPU; reading into static buffers is Megatron's.
    """
    monkeypatch.setattr(full_cuda_graph.StaticBufferLoader, "static_buffers", {"training": [], "validation": []})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(wait_stream=lambda _: None))
    counter, seen = Counter(), []
    strategy = object.__new__(ResumableStrategy)
    strategy._lightning_module = SimpleNamespace(config=SimpleNamespace(cuda_graph_scope="full_iteration"))
    strategy.model = SimpleNamespace(callbacks=CallbackConnector([counter]))

    def computed(data_iterator: Any, num_microbatches: int, **_: Any) -> None:
        for _ in range(num_microbatches):
            batch = llama.data_step(data_iterator[0])
            assert "fingerprint" not in batch
            seen.append(int(batch["tokens"][0, 0]))

    with one_rank():
        wrapper = FullCudaGraphWrapper(computed, cuda_graph_warmup_steps=100)
        for first in (1, 3, 5):
            given = [strategy._counted(batches(first))]
            wrapper(model=None, data_iterator=given, num_microbatches=2, seq_length=4, forward_only=True)
    assert counter.found == [1, 2, 3, 4, 5, 6]
    assert seen == [1, 2, 3, 4, 5, 6], "buffers are filled again for each step"
