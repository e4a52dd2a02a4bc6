"""Two ranks, of which one is slow, with losses that are read every 5 steps: metrics, loggers, status and report."""

import socket
from typing import Any

import pytest
from runs import CUT_RUN, SUPPORT, Run, run_forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llama31.config import paths
from llama31.report import runs, tables
from llama31.report.figures import Figures
from llama31.report.page import render

pytestmark = pytest.mark.slow

STEPS, EVERY = 22, 5


@pytest.fixture(scope="module")
def settings(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    jobs = tmp_path_factory.mktemp("runs")
    return {**tiny_data, **CUT_RUN, "GPUS_PER_NODE": 2, "EVAL_EVERY": 96, "STOP_AT_STEP": STEPS, "JOB_DIR": jobs}


@pytest.fixture(scope="module")
def slow(settings: dict[str, Any]) -> Run:
    run = run_forked({**settings, "LOG_INTERVAL": EVERY}, script=SUPPORT / "slow_rank.py")
    assert run.losses(), run.printed + run.logs()
    return run


def test_losses_are_those_of_a_run_that_reads_each(slow: Run, settings: dict[str, Any]) -> None:
    """Evaluations are after steps 12, which is no multiple of 5, and the run ends after step 22."""
    assert slow.losses() == run_forked(settings).losses()
    assert [event["read_after"] for event in slow.events("step")] == [5] * 5 + [10] * 5 + [12] * 2 + [15] * 3 + [
        20
    ] * 5 + [22] * 2


def test_loggers_have_the_multiples_of_the_interval(slow: Run) -> None:
    logged = EventAccumulator(str(slow.run_dir / paths.TENSORBOARD)).Reload()
    found = {event.step: event.value for event in logged.Scalars("reduced_train_loss")}
    losses = slow.losses()
    assert found == pytest.approx({step: losses[step - 1] for step in range(EVERY, STEPS + 1, EVERY)}, rel=1e-6)
    assert [event.step for event in logged.Scalars("val_loss")] == [12]


def test_the_report_names_the_slow_rank(slow: Run) -> None:
    (run,) = runs.read([slow.run_dir / paths.MLPERF_LOG])
    (row,) = tables.of_slow_ranks([Figures(run, None, "")]).rows
    assert list(row[1:3]) == [f"rank 1 ({socket.gethostname()}, CPU)", "2 of 2"] and float(row[3]) > 1
    page = render([Figures(run, None, "")])
    assert "Slowest ranks" in page and row[1] in page


def test_the_slow_rank_is_named(slow: Run) -> None:
    events = slow.events("ranks")
    assert [(event["step"], event["steps"]) for event in events] == [(10, 10), (20, 10)]
    for event in events:
        slowest, other = event["slowest"]
        assert (slowest["rank"], slowest["host"], slowest["device"]) == (1, socket.gethostname(), "CPU")
        assert slowest["seconds"] > event["median"] > other["seconds"]
