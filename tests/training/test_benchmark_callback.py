"""BenchmarkCallback, driven by a simulated trainer."""

import math
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import simulated_training
import torch
from one_rank import one_rank
from simulated_training import ENOUGH, FINGERPRINTS, SimulatedRun, Trainer

from dev.support import benchmark_run
from llama31 import rules
from llama31.model import device
from llama31.run_dir.events import ABORTED, SUCCESS, TARGET_NOT_REACHED, Outcome, Step
from llama31.run_dir.start_point import Start
from llama31.settings import Settings
from llama31.training import benchmark_callback as module
from llama31.training.benchmark_callback import BenchmarkCallback

CLOSED = benchmark_run.SETTINGS  # the benchmark at a global batch size of 32


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():  # an evaluation's result is summed over the ranks
        yield


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., SimulatedRun]:
    return partial(simulated_training.train, tmp_path)


# The whole benchmark


def test_the_official_checker_accepts_the_benchmark_as_closed(train: Callable[..., SimulatedRun]) -> None:
    done = train(CLOSED, benchmark_run.losses())
    assert len(done.steps) == 5376
    assert replace(done.outcome, memory=None) == Outcome(
        SUCCESS, "validation loss 3.2900 reached TARGET=3.3", 0, 5376, 172_032
    )
    assert [evaluation.step for evaluation in done.evaluations] == list(range(384, 5377, 384))
    found = [record["value"] for record in done.records() if record["key"] == "eval_accuracy"]
    assert found == pytest.approx(benchmark_run.losses(), abs=1e-12)
    for ruleset in rules.RULESETS:
        command = [sys.executable, "-m", "mlperf_logging.compliance_checker", "--ruleset", ruleset, done.log.name]
        judged = subprocess.run(command, cwd=done.log.parent, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, f"ruleset {ruleset}:\n{judged.stdout}{judged.stderr}"


def test_steps_are_reported_as_they_were(train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    done = train(replace(CLOSED, stop_at_step=3), train_loss=lambda step: 10.0 - step)
    assert done.steps == [
        Step(step, 32 * step, loss, pytest.approx(1e-6 * step), 1) for step, loss in ((1, 9.0), (2, 8.0), (3, 7.0))
    ], "loss and learning rate are those that the step had"


def test_time_spent_in_an_evaluation_is_no_steps(
    train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    done = train(replace(CLOSED, stop_at_step=400), train_loss=train_loss)
    assert {step.seconds for step in done.steps} == {1.0}
    assert [evaluation.seconds for evaluation in done.evaluations] == [1024.0]


def test_memory_on_a_cpu_is_what_the_process_has_taken(train: Callable[..., SimulatedRun]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    done = train(CLOSED, [3.5, 3.2])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = [evaluation.memory for evaluation in done.evaluations]
    assert before <= memory[0] <= memory[1] <= after
    logged = [line for line in done.records() if "max_memory_gb" in str(line["value"])]
    assert [line["value"]["max_memory_gb"] for line in logged] == pytest.approx([one / 1e9 for one in memory], abs=5e-4)
    assert [line["metadata"]["step"] for line in logged] == [384, 768]


def test_memory_is_the_most_that_any_rank_has_taken(
    train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    all_reduce = torch.distributed.all_reduce

    def with_another_rank(tensor: torch.Tensor, op: Any, group: Any) -> None:
        """One more of all ranks, which has taken 7 TB."""
        all_reduce(tensor, op, group)
        if op == torch.distributed.ReduceOp.MAX and group is None:
            tensor.clamp_(min=7 * 10**12)

    monkeypatch.setattr(torch.distributed, "all_reduce", with_another_rank)
    assert [evaluation.memory for evaluation in train(CLOSED, [3.2]).evaluations] == [7 * 10**12]


def test_memory_on_a_gpu_is_what_torch_has_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 71 * 10**9)
    assert device.peak_memory() == 71 * 10**9


# When to evaluate, and on what


def test_no_evaluation_before_start_eval_at(train: Callable[..., SimulatedRun]) -> None:
    settings = replace(CLOSED, start_eval_at=30_000)
    done = train(settings, [3.4, 3.2])
    assert [evaluation.consumed_samples for evaluation in done.evaluations] == [36_864, 49_152]
    assert done.outcome.status == SUCCESS
    done.records()


def test_start_eval_at_an_evaluation_includes_it(train: Callable[..., SimulatedRun]) -> None:
    done = train(replace(CLOSED, start_eval_at=24_576), [3.2])
    assert [evaluation.consumed_samples for evaluation in done.evaluations] == [24_576]


@pytest.mark.parametrize(("gbs", "mbs", "eval_samples"), [(32, 1, 1024), (48, 2, 1000), (96, 4, 5), (7, 7, 20)])
def test_an_evaluation_is_the_mean_over_its_sequences(
    train: Callable[..., SimulatedRun], gbs: int, mbs: int, eval_samples: int
) -> None:
    settings = replace(CLOSED, gbs=gbs, mbs=mbs, eval_samples=eval_samples, eval_every=10 * gbs, stop_at_step=20)
    done = train(settings, [3.5, 3.25])
    expected = sum(FINGERPRINTS[:eval_samples]) % 2**64
    assert [evaluation.loss for evaluation in done.evaluations] == pytest.approx([3.5, 3.25], abs=1e-12)
    assert {evaluation.samples for evaluation in done.evaluations} == {eval_samples}
    assert {evaluation.token_hash for evaluation in done.evaluations} == {f"{expected:016x}"}


def test_an_evaluation_that_misses_a_sequence_is_none(
    train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_training, "FINGERPRINTS", [*FINGERPRINTS[:1000], 0, *FINGERPRINTS[1001:]])
    with pytest.raises(AssertionError, match="evaluated 1023 sequences"):
        train(CLOSED, [3.2])


def test_training_batches_do_not_count_as_evaluated(train: Callable[..., SimulatedRun]) -> None:
    callback = BenchmarkCallback(CLOSED, [], ENOUGH, Start())
    callback.on_megatron_microbatch_start(batch={"tokens": torch.ones(1, 8)}, step=None)
    assert (callback._samples, callback._token_hash) == (0, 0)


# Ends


@pytest.mark.parametrize(("loss", "status"), [(3.3 - 1e-9, SUCCESS), (3.3 + 1e-9, ABORTED)])
def test_the_target_is_reached_at_or_below_it(train: Callable[..., SimulatedRun], loss: float, status: str) -> None:
    done = train(replace(CLOSED, stop_at_step=384), [loss])
    assert done.outcome.status == status
    assert done.evaluations[0].reached_target is (status == SUCCESS)


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
        (
            replace(CLOSED, samples_available=16_031),
            ENOUGH,
            500,
            f"SAMPLES_AVAILABLE=16031 of the data's {ENOUGH} sequences",
        ),
        (replace(CLOSED, stop_at_step=600), 16_031, 500, "the 16031 sequences of training data"),
    ],
    ids=["stop at step", "max steps", "end of data", "end of index", "data before stop"],
)
def test_a_run_that_misses_the_target_ends_in_order(
    train: Callable[..., SimulatedRun], settings: Settings, available: int, last: int, reason: str
) -> None:
    done = train(settings, available_samples=available)
    said = f"the validation loss did not reach TARGET=3.3 in {reason}"
    assert replace(done.outcome, memory=None) == Outcome(ABORTED, said, TARGET_NOT_REACHED, last, 32 * last)
    assert [evaluation.step for evaluation in done.evaluations] == [384], "no evaluation off the cadence"
    assert done.records()[-1]["metadata"]["reason"] == said


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_training_loss_that_is_not_finite_ends_the_run_at_once(
    train: Callable[..., SimulatedRun], loss: float
) -> None:
    done = train(CLOSED, train_loss=lambda step: loss if step == 390 else 4.0)
    assert done.outcome.reason == f"the training loss is {loss} at step 390; a lower MAX_LR may help"
    assert (done.outcome.exit_code, done.outcome.step) == (TARGET_NOT_REACHED, 390)
    assert len(done.steps) == 390, "the step itself is reported"
    assert done.records()[-1]["metadata"]["status"] == ABORTED


def test_a_validation_loss_that_is_not_a_number_ends_the_run_at_once(train: Callable[..., SimulatedRun]) -> None:
    done = train(CLOSED, [3.5, math.nan])
    assert done.outcome.reason == "the validation loss is nan at step 768; a lower MAX_LR may help"
    assert done.outcome.exit_code == TARGET_NOT_REACHED
    assert not done.evaluations[-1].reached_target
    done.records()


@pytest.mark.parametrize(("slow", "ends"), [(2, 20), (7, 7)], ids=["while warming up", "later"])
def test_a_step_that_is_too_slow_ends_the_run(
    train: Callable[..., SimulatedRun], monkeypatch: pytest.MonkeyPatch, slow: int, ends: int
) -> None:
    now = 0.0

    def train_loss(step: int) -> float:
        nonlocal now
        now += 1.5 if step == slow else 0.9
        return 4.0

    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    done = train(replace(CLOSED, step_time_atol=1000, stop_at_step=20), train_loss=train_loss)
    assert done.outcome.step == ends
    if slow == ends:
        assert done.outcome.reason == f"step {slow} took 1500 ms; STEP_TIME_ATOL=1000 tolerates 1000"
    done.records()


def test_other_ranks_come_to_the_same_end(train: Callable[..., SimulatedRun]) -> None:
    """They hold no training loss and no observers; what they evaluate is summed over all."""
    done = train(CLOSED, [3.5, 3.2], is_first_rank=False)
    assert replace(done.outcome, memory=None) == Outcome(
        SUCCESS, "validation loss 3.2000 reached TARGET=3.3", 0, 768, 24_576
    )
