"""LOG_INTERVAL: losses are read together, none is lost, and messages say how late they were read."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import simulated_training
from one_rank import one_rank
from simulated_training import SimulatedRun

from dev.support import benchmark_run
from llama31.training import benchmark_callback as module
from llama31.training.pending_steps import PendingSteps

EVERY_TEN = replace(benchmark_run.SETTINGS, log_interval=10)


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():
        yield


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., SimulatedRun]:
    return partial(simulated_training.train, tmp_path)


def test_no_step_is_lost_or_reordered(train: Callable[..., SimulatedRun]) -> None:
    """An evaluation every 384 steps, which is no multiple of ten, and the end at step 395 each read what is pending."""
    found = [
        train(replace(settings, stop_at_step=395), train_loss=lambda step: 10 - step / 100).steps
        for settings in (benchmark_run.SETTINGS, EVERY_TEN)
    ]
    (each, together) = ([replace(step, seconds=0, read_after=None) for step in steps] for steps in found)
    assert each == together and len(each) == 395
    assert {step.read_after for step in found[0]} == {None}
    assert [step.read_after for step in found[1][375:]] == [380] * 5 + [384] * 4 + [390] * 6 + [395] * 5


def test_times_are_means_of_the_steps_read_together(
    train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert [step.seconds for step in train(replace(EVERY_TEN, stop_at_step=15)).steps] == [0.1] * 10 + [0.2] * 5


def test_the_device_is_read_once_in_an_interval(
    train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    stock = PendingSteps.read_losses

    def noting(self: PendingSteps) -> list[float]:
        losses = stock(self)
        sizes.append(len(losses))
        return losses

    monkeypatch.setattr(PendingSteps, "read_losses", noting)
    train(replace(EVERY_TEN, stop_at_step=25))
    assert sizes == [10, 10, 5]


def test_a_loss_that_is_not_finite_is_named_with_its_step(train: Callable[..., SimulatedRun]) -> None:
    done = train(EVERY_TEN, train_loss=lambda step: math.nan if step == 12 else 4.0)
    said = "the training loss is nan at step 12, read after step 20 (LOG_INTERVAL=10); a lower MAX_LR may help"
    assert done.outcome.reason == said
    assert done.outcome.step == 20


def test_step_times_are_checked_as_means(train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    settings = replace(EVERY_TEN, step_time_atol=999)
    said = "steps 11 to 20 took 1000 ms each on average; STEP_TIME_ATOL=999 tolerates 999"
    assert train(settings).outcome.reason == said, "the first interval has the steps that may take longer"
    assert train(replace(settings, step_time_atol=1000, stop_at_step=40)).outcome.step == 40
