"""The benchmark's course, driven by a trainer of which only what Lightning and NeMo call and hold is faked."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import benchmark_run
import pytest
import torch
from one_rank import one_rank

from llama31 import rules
from llama31.checkpoint.start import Start
from llama31.departures import departures
from llama31.errors import RunAborted
from llama31.events import ABORTED, SUCCESS, TARGET_NOT_REACHED, Evaluation, Observer, Outcome, Step
from llama31.mlperf import callback as module
from llama31.mlperf.callback import BenchmarkCallback
from llama31.settings import Settings

CLOSED = benchmark_run.SETTINGS  # the benchmark at a global batch size of 32
ENOUGH = 10_000_000  # training sequences
FINGERPRINTS = [2**62 + 7 * i for i in range(1, 2001)]  # whose sum is more than 64 bits hold


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():  # an evaluation's result is summed over the ranks
        yield


class Trainer:
    """What Lightning's trainer holds, and the calls that it makes in training, with NeMo's within them."""

    def __init__(self, settings: Settings, is_first_rank: bool):
        self.settings = settings
        self.is_global_zero = is_first_rank
        self.global_step = 0
        self.should_stop = False
        self.limit_val_batches = math.ceil(settings.eval_samples / settings.gbs)
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=settings.max_steps))
        self.optimizers = [SimpleNamespace(param_groups=[{"lr": 0.0}])]
        self.callback_metrics: dict[str, torch.Tensor] = {}

    def fit(
        self,
        callback: BenchmarkCallback,
        train_loss: Callable[[int], float],
        validation_loss: Callable[[int], float],
        available_samples: int,
    ) -> None:
        """Trains; losses are given by the step."""
        callback.on_train_start(self, None)
        interval = math.ceil(self.settings.eval_every / self.settings.gbs)
        while self.global_step < self.fit_loop.epoch_loop.max_steps and not self.should_stop:
            learning_rate = 1e-6 * (self.global_step + 1)
            self.optimizers[0].param_groups[0]["lr"] = learning_rate
            callback.on_train_batch_start(self, None, None, self.global_step)
            self.global_step += 1
            self.optimizers[0].param_groups[0]["lr"] = math.nan  # the scheduler has moved on
            if self.is_global_zero:
                self.callback_metrics["reduced_train_loss"] = torch.tensor(train_loss(self.global_step))
            callback.on_train_batch_end(self, None, None, None, self.global_step - 1)
            data_ends = self.global_step == available_samples // self.settings.gbs
            if self.limit_val_batches and (self.global_step % interval == 0 or data_ends):
                self.validate(callback, validation_loss(self.global_step))
        callback.on_train_end(self, None)

    def validate(self, callback: BenchmarkCallback, loss: float) -> None:
        """Evaluates in global batches, whose losses differ; sequences after EVAL_SAMPLES have no fingerprint."""
        size, samples = self.settings.gbs, self.settings.eval_samples
        callback.on_validation_start(self, None)
        shares = [min(size, samples - start) for start in range(0, size * self.limit_val_batches, size)]
        for number, share in enumerate(shares):
            for i in range(number * size, (number + 1) * size, self.settings.mbs):
                batch = [FINGERPRINTS[j] if j < samples else 0 for j in range(i, i + self.settings.mbs)]
                callback.on_megatron_microbatch_start(batch={"fingerprint": torch.tensor(batch)}, step=None)
            # The first batches are worse and the last is better, so that only the weighted mean is `loss`.
            above = 1.0 if number < len(shares) - 1 else -sum(shares[:-1]) / share
            callback.on_validation_batch_end(self, None, torch.tensor(loss + above, dtype=torch.float64), None, number)
        callback.on_validation_end(self, None)


@dataclass
class Course:
    """What a run told its observers, and how it ended."""

    log: Path
    outcome: Outcome
    steps: list[Step] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    def records(self) -> list[dict[str, Any]]:
        """The lines of the MLPerf log, of which each start has its stop and the last is run_stop."""
        found = [json.loads(line.removeprefix(":::MLLOG ")) for line in self.log.read_text().splitlines()]
        keys = [record["key"] for record in found]
        assert [keys.count(key) for key in ("init_start", "init_stop", "run_start", "run_stop")] == [1] * 4
        assert keys[-1] == "run_stop"
        open_intervals: list[str] = []
        for key in keys[keys.index("run_start") + 1 : -1]:
            name, _, end = key.partition("_")
            if end == "start":
                assert not open_intervals, f"{key} within {open_intervals}"
                open_intervals.append(name)
            elif end == "stop":
                assert open_intervals == [name], f"{key} after the start of {open_intervals}"
                open_intervals.clear()
        assert not open_intervals
        counts = [record["metadata"]["samples_count"] for record in found if "samples_count" in record["metadata"]]
        assert counts == sorted(counts)
        assert found[-1]["metadata"]["status"] == self.outcome.status
        assert found[-1]["metadata"]["samples_count"] == self.outcome.consumed_samples
        return found


class Collector(Observer):
    """Fills in a course."""

    def __init__(self, course: Course):
        self.course = course

    def step_ended(self, step: Step) -> None:
        self.course.steps.append(step)

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        self.course.evaluations.append(evaluation)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Course]:
    """Trains with a real MLPerf log among the observers, and closes it as the product does."""

    def run(
        settings: Settings,
        validation_losses: Sequence[float] = (),
        train_loss: Callable[[int], float] = lambda step: 4.0,
        available_samples: int = ENOUGH,
        is_first_rank: bool = True,
    ) -> Course:
        log = benchmark_run.open_log(tmp_path / "mlperf.log", settings, departures(settings))
        course = Course(tmp_path / "mlperf.log", Outcome(ABORTED, "", 1, 0, 0))
        observers = [Collector(course), log] if is_first_rank else []
        callback = BenchmarkCallback(settings, observers, available_samples, Start())
        losses = iter(validation_losses)
        try:
            Trainer(settings, is_first_rank).fit(
                callback, train_loss, lambda _: next(losses, settings.target + 1), available_samples
            )
            assert callback.outcome, "a run that ends in order has an outcome"
            course.outcome = callback.outcome
        except RunAborted as error:  # as llama31.train does
            course.outcome = Outcome(ABORTED, str(error), error.exit_code, callback.step, callback.consumed_samples)
        for observer in observers:
            observer.run_stopped(course.outcome)
        return course

    return run


# The whole benchmark


def test_the_official_checker_accepts_the_benchmarks_course_as_closed(train: Callable[..., Course]) -> None:
    course = train(CLOSED, benchmark_run.losses())
    assert len(course.steps) == 5376
    assert course.outcome == Outcome(SUCCESS, "validation loss 3.2900 reached TARGET=3.3", 0, 5376, 172_032)
    assert [evaluation.step for evaluation in course.evaluations] == list(range(384, 5377, 384))
    found = [record["value"] for record in course.records() if record["key"] == "eval_accuracy"]
    assert found == pytest.approx(benchmark_run.losses(), abs=1e-12)
    for ruleset in rules.RULESETS:
        command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--ruleset", ruleset, course.log.name]
        done = subprocess.run(command, cwd=course.log.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ruleset {ruleset}:\n{done.stdout}{done.stderr}"


def test_steps_are_told_as_they_were(train: Callable[..., Course], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    course = train(replace(CLOSED, stop_at_step=3), train_loss=lambda step: 10.0 - step)
    assert course.steps == [
        Step(step, 32 * step, loss, pytest.approx(1e-6 * step), 1) for step, loss in ((1, 9.0), (2, 8.0), (3, 7.0))
    ], "loss and learning rate are those that the step had"


def test_time_spent_in_an_evaluation_is_no_steps(train: Callable[..., Course], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        return now

    def train_loss(_: int) -> float:
        nonlocal now
        now += 1
        return 4.0

    evaluate = Trainer.validate

    def slow(self: Trainer, *arguments: Any) -> None:
        nonlocal now
        microbatch = BenchmarkCallback.on_megatron_microbatch_start

        def slower(callback: BenchmarkCallback, **values: Any) -> None:
            nonlocal now
            now += 1
            microbatch(callback, **values)

        with monkeypatch.context() as patch:
            patch.setattr(BenchmarkCallback, "on_megatron_microbatch_start", slower)
            evaluate(self, *arguments)

    monkeypatch.setattr(module.time, "perf_counter", clock)
    monkeypatch.setattr(Trainer, "validate", slow)
    course = train(replace(CLOSED, stop_at_step=400), train_loss=train_loss)
    assert {step.seconds for step in course.steps} == {1.0}
    assert [evaluation.seconds for evaluation in course.evaluations] == [1024.0]


# When to evaluate, and on what


def test_no_evaluation_before_start_eval_at(train: Callable[..., Course]) -> None:
    settings = replace(CLOSED, start_eval_at=30_000)
    course = train(settings, [3.4, 3.2])
    assert [evaluation.consumed_samples for evaluation in course.evaluations] == [36_864, 49_152]
    assert course.outcome.status == SUCCESS
    course.records()


def test_start_eval_at_an_evaluation_includes_it(train: Callable[..., Course]) -> None:
    course = train(replace(CLOSED, start_eval_at=24_576), [3.2])
    assert [evaluation.consumed_samples for evaluation in course.evaluations] == [24_576]


@pytest.mark.parametrize(("gbs", "mbs", "eval_samples"), [(32, 1, 1024), (48, 2, 1000), (96, 4, 5), (7, 7, 20)])
def test_an_evaluation_is_the_mean_over_its_sequences(
    train: Callable[..., Course], gbs: int, mbs: int, eval_samples: int
) -> None:
    settings = replace(CLOSED, gbs=gbs, mbs=mbs, eval_samples=eval_samples, eval_every=10 * gbs, stop_at_step=20)
    course = train(settings, [3.5, 3.25])
    expected = sum(FINGERPRINTS[:eval_samples]) % 2**64
    assert [evaluation.loss for evaluation in course.evaluations] == pytest.approx([3.5, 3.25], abs=1e-12)
    assert {evaluation.samples for evaluation in course.evaluations} == {eval_samples}
    assert {evaluation.token_hash for evaluation in course.evaluations} == {f"{expected:016x}"}


def test_an_evaluation_that_misses_a_sequence_is_none(
    train: Callable[..., Course], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "FINGERPRINTS", [*FINGERPRINTS[:1000], 0, *FINGERPRINTS[1001:]])
    with pytest.raises(AssertionError, match="evaluated 1023 sequences"):
        train(CLOSED, [3.2])


def test_training_batches_do_not_count_as_evaluated(train: Callable[..., Course]) -> None:
    callback = BenchmarkCallback(CLOSED, [], ENOUGH, Start())
    callback.on_megatron_microbatch_start(batch={"tokens": torch.ones(1, 8)}, step=None)
    assert (callback._samples, callback._token_hash) == (0, 0)


# Ends


@pytest.mark.parametrize(("loss", "status"), [(3.3 - 1e-9, SUCCESS), (3.3 + 1e-9, ABORTED)])
def test_the_target_is_reached_at_or_below_it(train: Callable[..., Course], loss: float, status: str) -> None:
    course = train(replace(CLOSED, stop_at_step=384), [loss])
    assert course.outcome.status == status
    assert course.evaluations[0].reached_target is (status == SUCCESS)


def test_the_target_itself_is_reached() -> None:
    settings = replace(CLOSED, eval_samples=32, target=3.5)  # one batch, whose mean 3.5 is exact
    callback = BenchmarkCallback(settings, [], ENOUGH, Start())
    trainer = Trainer(settings, is_first_rank=True)
    callback.on_validation_start(trainer, None)
    callback.on_megatron_microbatch_start(batch={"fingerprint": torch.arange(1, 33)})
    callback.on_validation_batch_end(trainer, None, torch.tensor(3.5), None, 0)
    callback.on_validation_end(trainer, None)
    assert callback.outcome is not None
    assert callback.outcome.status == SUCCESS
    assert trainer.should_stop


@pytest.mark.parametrize(
    ("settings", "available", "last", "reason"),
    [
        (replace(CLOSED, stop_at_step=500), ENOUGH, 500, "STOP_AT_STEP=500 steps"),
        (replace(CLOSED, max_steps=500, warmup_steps=10), ENOUGH, 500, "MAX_STEPS=500 steps"),
        (CLOSED, 16_031, 500, "the 16031 sequences of training data"),
        (replace(CLOSED, stop_at_step=600), 16_031, 500, "the 16031 sequences of training data"),
    ],
    ids=["stop at step", "max steps", "end of data", "data before stop"],
)
def test_a_run_that_misses_the_target_ends_in_order(
    train: Callable[..., Course], settings: Settings, available: int, last: int, reason: str
) -> None:
    course = train(settings, available_samples=available)
    said = f"the validation loss did not reach TARGET=3.3 in {reason}"
    assert course.outcome == Outcome(ABORTED, said, TARGET_NOT_REACHED, last, 32 * last)
    assert [evaluation.step for evaluation in course.evaluations] == [384], "no evaluation off the cadence"
    assert course.records()[-1]["metadata"]["reason"] == said


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_training_loss_that_is_not_finite_ends_the_run_at_once(train: Callable[..., Course], loss: float) -> None:
    course = train(CLOSED, train_loss=lambda step: loss if step == 390 else 4.0)
    assert course.outcome.reason == f"the training loss is {loss} at step 390; a lower MAX_LR may help"
    assert (course.outcome.exit_code, course.outcome.step) == (TARGET_NOT_REACHED, 390)
    assert len(course.steps) == 390, "the step itself is told"
    assert course.records()[-1]["metadata"]["status"] == ABORTED


def test_a_validation_loss_that_is_not_a_number_ends_the_run_at_once(train: Callable[..., Course]) -> None:
    course = train(CLOSED, [3.5, math.nan])
    assert course.outcome.reason == "the validation loss is nan at step 768; a lower MAX_LR may help"
    assert course.outcome.exit_code == TARGET_NOT_REACHED
    assert not course.evaluations[-1].reached_target
    course.records()


@pytest.mark.parametrize(("slow", "ends"), [(2, 20), (7, 7)], ids=["while warming up", "later"])
def test_a_step_that_is_too_slow_ends_the_run(
    train: Callable[..., Course], monkeypatch: pytest.MonkeyPatch, slow: int, ends: int
) -> None:
    now = 0.0

    def train_loss(step: int) -> float:
        nonlocal now
        now += 1.5 if step == slow else 0.9
        return 4.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    course = train(replace(CLOSED, step_time_atol=1000, stop_at_step=20), train_loss=train_loss)
    assert course.outcome.step == ends
    if slow == ends:
        assert course.outcome.reason == f"step {slow} took 1500 ms; STEP_TIME_ATOL=1000 tolerates 1000"
    course.records()


def test_other_ranks_come_to_the_same_end(train: Callable[..., Course]) -> None:
    """They hold no training loss and no observers; what they evaluate is summed over all."""
    course = train(CLOSED, [3.5, 3.2], is_first_rank=False)
    assert course.outcome == Outcome(SUCCESS, "validation loss 3.2000 reached TARGET=3.3", 0, 768, 24_576)
