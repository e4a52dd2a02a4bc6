"""The benchmark's training loop, driven by a trainer that simulates only what Lightning and NeMo call and hold."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from dev.support import benchmark_run
from llama31.common.errors import RunAborted
from llama31.config.departures import departures
from llama31.run_dir.events import ABORTED, Evaluation, Observer, Outcome, Step
from llama31.run_dir.start_point import Start
from llama31.settings import Settings
from llama31.training.benchmark_callback import BenchmarkCallback

ENOUGH = 10_000_000  # training sequences
FINGERPRINTS = [2**62 + 7 * i for i in range(1, 2001)]  # whose sum is more than 64 bits hold


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
            outputs = {"loss": torch.tensor(train_loss(self.global_step))}
            callback.on_train_batch_end(self, None, outputs, None, self.global_step - 1)
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
class SimulatedRun:
    """What a run reported to its observers, and how it ended."""

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
    """Fills in a run."""

    def __init__(self, run: SimulatedRun):
        self.run = run

    def step_ended(self, step: Step) -> None:
        self.run.steps.append(step)

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        self.run.evaluations.append(evaluation)


def train(
    directory: Path,
    settings: Settings,
    validation_losses: Sequence[float] = (),
    train_loss: Callable[[int], float] = lambda step: 4.0,
    available_samples: int = ENOUGH,
    is_first_rank: bool = True,
) -> SimulatedRun:
    """Trains with a real MLPerf log among the observers, and closes it as the product does.

    An evaluation's result is summed over the ranks, so call this within `one_rank`.
    """
    log = benchmark_run.open_log(directory / "mlperf.log", settings, departures(settings))
    run = SimulatedRun(directory / "mlperf.log", Outcome(ABORTED, "", 1, 0, 0))
    observers = [Collector(run), log] if is_first_rank else []
    callback = BenchmarkCallback(settings, observers, available_samples, Start())
    losses = iter(validation_losses)
    try:
        Trainer(settings, is_first_rank).fit(
            callback, train_loss, lambda _: next(losses, settings.target + 1), available_samples
        )
        assert callback.outcome, "a run that ends in order has an outcome"
        run.outcome = callback.outcome
    except RunAborted as error:  # as llama31.train does
        run.outcome = Outcome(ABORTED, str(error), error.exit_code, callback.step, callback.consumed_samples)
    for observer in observers:
        observer.run_stopped(run.outcome)
    return run
