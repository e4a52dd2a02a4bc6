"""Parallel layouts on the CPU: the same weights give the same losses and read the same validation sequences."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import oracle
import pytest
import tiny
import torch
from ranks_from_weights import ALLOCATED, FINAL, INITIAL
from runs import Run, train_from_weights

from llama31 import rules
from llama31.config.model_sizes import SIZES
from llama31.config.parallel_layout import Layout
from llama31.estimates import memory
from llama31.run_dir import record

STEPS = 10
SEQ_LENGTH = 64
EVAL_SAMPLES = 30  # GBS does not divide it: the last batch is filled up with sequences that must not count
SETTINGS = {
    "SIZE": "tiny",
    "DEVICE": "cpu",
    "PRECISION": "fp32",
    "SEQ_LENGTH": SEQ_LENGTH,
    "GBS": 8,
    "MBS": 2,
    "MAX_LR": 1e-3,
    "WARMUP_STEPS": 5,
    "EVAL_EVERY": 40,
    "EVAL_SAMPLES": EVAL_SAMPLES,
    "STOP_AT_STEP": STEPS,
    "SEEDS": 1234,
}
LAYOUTS = {
    "data": {"GPUS_PER_NODE": 2},
    "tensor": {"GPUS_PER_NODE": 2, "TENSOR_PARALLEL_SIZE": 2},
    "pipeline": {"GPUS_PER_NODE": 2, "PIPELINE_PARALLEL_SIZE": 2},
    "interleaved pipeline": {"GPUS_PER_NODE": 2, "PIPELINE_PARALLEL_SIZE": 2, "VIRTUAL_PIPELINE_SIZE": 2},
    "tensor and pipeline": {"GPUS_PER_NODE": 4, "TENSOR_PARALLEL_SIZE": 2, "PIPELINE_PARALLEL_SIZE": 2},
    "data and interleaved": {"GPUS_PER_NODE": 4, "PIPELINE_PARALLEL_SIZE": 2, "VIRTUAL_PIPELINE_SIZE": 2},
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**tiny_data, **SETTINGS, "JOB_DIR": tmp_path_factory.mktemp("runs")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def one_rank(settings: dict[str, Any], weights: Path) -> Run:
    """The run that the others are compared with; it saves the weights that they start from."""
    return train_from_weights(settings, weights)


@pytest.fixture(scope="module")
def sequences(tiny_data: dict[str, str]) -> Any:
    """The validation sequences, read by independent code."""
    name = rules.token_file_name(rules.validation_name(int(tiny_data["N_VALIDATION_SAMPLES"])))
    return oracle.windows(Path(tiny_data["PREPROCESSED_PATH"], f"{name}.bin"), "<u2", SEQ_LENGTH, EVAL_SAMPLES)


@pytest.fixture(scope="module")
def in_layout(settings: dict[str, Any], weights: Path, one_rank: Run) -> Callable[[str], Run]:
    """The run of each layout, trained once."""
    return cache(lambda layout: train_from_weights({**settings, **LAYOUTS[layout]}, weights) if layout else one_rank)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_follow_the_course_of_one_rank(
    layout: str, in_layout: Callable[[str], Run], one_rank: Run, sequences: Any
) -> None:
    run = in_layout(layout)
    assert len(run.losses()) == STEPS
    assert run.losses() == pytest.approx(one_rank.losses(), rel=1e-4)
    evaluations, expected = run.events("evaluation"), one_rank.events("evaluation")
    assert [event["step"] for event in evaluations] == [5, 10]
    assert [event["loss"] for event in evaluations] == pytest.approx([event["loss"] for event in expected], rel=1e-5)
    assert {event["token_hash"] for event in evaluations} == {oracle.expected_fingerprint(sequences)}
    assert_memory_is_as_estimated(run)


SELECTIVE, FULL = {"RECOMPUTE_GRANULARITY": "selective"}, {"RECOMPUTE_GRANULARITY": "full"}
BLOCK = {"RECOMPUTE_METHOD": "block", "RECOMPUTE_NUM_LAYERS": 1}


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        ("", {**FULL, "RECOMPUTE_NUM_LAYERS": 2}),
        ("tensor", FULL),
        ("pipeline", SELECTIVE),
        ("data", {"OVERLAP_GRAD_REDUCE": 1}),
        ("data", {"OVERLAP_GRAD_REDUCE": 1, "OVERLAP_PARAM_GATHER": 0}),
        ("data and interleaved", {"OVERLAP_GRAD_REDUCE": 1, **FULL, **BLOCK}),
    ],
)
def test_recomputation_changes_no_bit_and_overlap_only_last_ones(
    layout: str, changes: dict[str, Any], in_layout: Callable[[str], Run], settings: dict[str, Any], weights: Path
) -> None:
    """Overlap makes several buckets of one, which cuts the ranks' shares elsewhere, and torch's fused AdamW rounds the
    last numbers of a share otherwise than the rest."""
    without, run = in_layout(layout), train_from_weights({**settings, **LAYOUTS.get(layout, {}), **changes}, weights)
    difference = 1e-6 if "OVERLAP_GRAD_REDUCE" in changes else 0
    assert run.losses() == pytest.approx(without.losses(), rel=difference, abs=0)
    evaluations, expected = ([event["loss"] for event in one.events("evaluation")] for one in (run, without))
    assert evaluations == pytest.approx(expected, rel=difference, abs=0)
    if "OVERLAP_GRAD_REDUCE" in changes:
        ranks = [json.loads(file.read_text()) for file in run.run_dir.glob(ALLOCATED.format(rank="*"))]
        assert all(rank["buckets"] > 1 for rank in ranks), "nothing could be overlapped"


def test_bf16_with_the_distributed_optimizer_stays_near(settings: dict[str, Any], weights: Path, one_rank: Run) -> None:
    run = train_from_weights({**settings, "GPUS_PER_NODE": 2, "PRECISION": "bf16"}, weights)
    assert run.losses() == pytest.approx(one_rank.losses(), rel=2e-3)
    assert_memory_is_as_estimated(run)


def test_memory_of_one_rank_is_as_estimated(one_rank: Run) -> None:
    assert_memory_is_as_estimated(one_rank)


def test_the_optimizer_is_the_fused_one(one_rank: Run) -> None:
    assert json.loads((one_rank.run_dir / ALLOCATED.format(rank=0)).read_text())["fused"]


def assert_memory_is_as_estimated(run: Run) -> None:
    """The plan's weights, gradients and optimizer state of each stage are what its ranks hold, to the byte.

    But Megatron pads its buffers before it spreads the optimizer over ranks: their shares are equal with the padding,
    so one of them may hold more by a part of it, and another less.
    """
    settings = record.load_settings(run.run_dir)
    ranks = [
        json.loads((run.run_dir / ALLOCATED.format(rank=rank)).read_text()) for rank in range(settings.gpus_per_node)
    ]
    sharing = Layout.of(settings).data_parallel_size
    for stage in range(settings.pipeline_parallel_size):
        estimate = memory.of_stage(settings, tiny.VOCABULARY, stage)
        of_stage = [rank for rank in ranks if rank["stage"] == stage]
        for rank in of_stage:
            assert (rank["weights"], rank["gradients"]) == (estimate.weights, estimate.gradients)
            assert abs(rank["optimizer"] - estimate.optimizer) <= 12 * rank["padding"] / sharing
        held = sum(rank["optimizer"] for rank in of_stage)
        assert held == estimate.optimizer * sharing * settings.tensor_parallel_size


@pytest.fixture(scope="module")
def other_seed(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run that differs in seed and batch sizes, from its own initial weights; and where these are."""
    weights = tmp_path_factory.mktemp("other weights")
    run = train_from_weights({**settings, "SEEDS": 99, "GBS": 12, "MBS": 3, "EVAL_EVERY": 120}, weights)
    return run, weights


def test_validation_does_not_depend_on_seed_or_batch(other_seed: tuple[Run, Path], sequences: Any) -> None:
    (evaluation,) = other_seed[0].events("evaluation")
    assert evaluation["samples"] == EVAL_SAMPLES
    assert evaluation["token_hash"] == oracle.expected_fingerprint(sequences)


def test_seed_draws_the_initial_weights(other_seed: tuple[Run, Path], weights: Path, one_rank: Run) -> None:
    ours, theirs = (torch.load(directory / INITIAL, weights_only=True) for directory in (weights, other_seed[1]))
    drawn = [name for name in ours if "layernorm" not in name]  # norms start at 1
    assert drawn
    assert not [name for name in drawn if torch.equal(ours[name], theirs[name])], "the seed does not reach the weights"


def test_validation_loss_is_the_mean_over_all_tokens(weights: Path, one_rank: Run, sequences: Any) -> None:
    shape = SIZES["tiny"]
    state = torch.load(weights / FINAL, weights_only=True)
    model = oracle.hugging_face_llama(state, shape.attention_heads, shape.key_value_heads)
    assert one_rank.events("evaluation")[-1]["step"] == STEPS
    assert one_rank.events("evaluation")[-1]["loss"] == pytest.approx(oracle.mean_loss(model, sequences), abs=1e-5)
