"""A warm-up before training changes nothing that a run computes, logs or saves, on any layout, also after resuming."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import oracle
import pytest
from noting_samples import NAME
from runs import CUT_RUN, SUPPORT, Run, run_forked

from dev.support.tensors import common, different, tensors
from llama31.checkpoint import store
from llama31.config import paths
from llama31.run_dir import startup_log

pytestmark = pytest.mark.slow

STEPS, CUT = 5, 2
WARMED = {"WARMUP_TRAIN_STEPS": 2, "WARMUP_VALIDATION_STEPS": 1}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one rank": {},
    "bf16": {"PRECISION": "bf16"},
    "data": {"GPUS_PER_NODE": 2},
    "overlapped": {"GPUS_PER_NODE": 2, "OVERLAP_GRAD_REDUCE": 1, "PRECISION": "bf16"},
    "tensor": {"GPUS_PER_NODE": 2, "TENSOR_PARALLEL_SIZE": 2},
    "interleaved pipeline": {"GPUS_PER_NODE": 2, "PIPELINE_PARALLEL_SIZE": 2, "VIRTUAL_PIPELINE_SIZE": 2},
}
Train = Callable[..., tuple[Run, Path]]


@pytest.fixture(scope="module")
def train(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains and saves at the end; returns the run and its last checkpoint."""
    jobs = tmp_path_factory.mktemp("runs")
    common = {**tiny_data, **CUT_RUN, "EVAL_EVERY": 16, "SAVE_CKPT": 1, "JOB_DIR": jobs, "KEEP_LAST": 0}

    def run(root: Path | None = None, **settings: Any) -> tuple[Run, Path]:
        root = root or tmp_path_factory.mktemp("checkpoints")
        given = {**common, "CONTINUAL_CKPT": root, "STOP_AT_STEP": STEPS, **settings}
        done = run_forked(given, script=SUPPORT / "noting_samples.py")
        assert len(done.losses()) == given["STOP_AT_STEP"], done.printed + done.logs()
        return done, store.listing(root)[0].path

    return run


@pytest.fixture(scope="module")
def without(train: Train) -> Callable[[str], tuple[Run, Path]]:
    """The run of each layout without a warm-up, trained once."""
    return cache(lambda layout: train(**LAYOUTS[layout]))


def logged(run: Run) -> list[tuple[Any, ...]]:
    """What the MLPerf log says, without times."""
    events = oracle.mlperf_events(run.run_dir / paths.MLPERF_LOG)
    counts = ("samples_count", "step", "status")
    return [
        (event["key"], [event["metadata"].get(name) for name in counts])
        if event["key"] == "tracked_stats"
        else (event["key"], event["value"], [event["metadata"].get(name) for name in counts])
        for event in events
    ]


def read(run: Run) -> list[str]:
    """The training sequences that rank 0 read."""
    return (run.run_dir / NAME.format(0)).read_text().splitlines()


def computed(run: Run) -> list[tuple[Any, ...]]:
    """What the metrics say of steps and evaluations, without times."""
    names = ("step", "consumed_samples", "loss", "learning_rate", "samples", "token_hash")
    return [tuple(event.get(name) for name in names) for kind in ("step", "evaluation") for event in run.events(kind)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_warm_up_leaves_no_trace(layout: str, train: Train, without: Callable[[str], tuple[Run, Path]]) -> None:
    (run, saved), (plain, expected) = train(**LAYOUTS[layout], **WARMED), without(layout)
    assert startup_log.WARMED in run.logs() and startup_log.WARMED not in plain.logs()
    assert computed(run) == computed(plain)
    assert logged(run) == logged(plain)
    assert read(run) == read(plain)
    assert not different(tensors(saved), tensors(expected))
    assert not different(common(saved), common(expected))


@pytest.mark.parametrize("warm_up", [WARMED, {"WARMUP_VALIDATION_STEPS": 2}], ids=["both", "validation"])
def test_resumed_runs_warm_up_without_a_trace(
    warm_up: dict[str, Any],
    train: Train,
    without: Callable[[str], tuple[Run, Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    plain, expected = without("data")
    root = tmp_path_factory.mktemp("chain")
    train(root, **LAYOUTS["data"], **warm_up, STOP_AT_STEP=CUT)
    run, saved = train(root, **LAYOUTS["data"], **warm_up)
    assert computed(run) == computed(plain)
    assert not different(tensors(saved), tensors(expected))
