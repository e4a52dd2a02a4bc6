"""Compute the figures of a run, only from its log and metrics. None: unknown.

Times are in seconds, losses in nats per token, samples in training sequences.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.config.parallel_layout import Layout
from llama31.estimates import speed
from llama31.estimates.gpus import GPUS
from llama31.mlperf.log.records import Log, Record, is_number, is_whole, shown
from llama31.report import step_times, timeline
from llama31.report.logs import TRAINING_LOSS, Series
from llama31.report.runs import ReportedRun
from llama31.report.step_times import StepTimes, named_steps
from llama31.report.timeline import Block, Restart, intervals, seconds_between
from llama31.settings import Settings

ACCUMULATION = constants.GRADIENT_ACCUMULATION_STEPS
MODEL_PARALLEL = (constants.TENSOR_PARALLELISM, constants.PIPELINE_PARALLELISM, constants.CONTEXT_PARALLELISM)


@dataclass(frozen=True)
class EvaluationFigures:
    """One evaluation."""

    samples: int
    loss: float


class Figures:
    """Figures of one run. `devices` and `gpu` are the user's, for runs whose files lack them."""

    def __init__(self, run: ReportedRun, devices: int | None, gpu: str):
        self.run = run
        self.log: Log = run.mlperf.log
        self._given_devices, self._given_gpu = devices, gpu

    # What ran

    @property
    def batch(self) -> int | None:
        """Global batch size."""
        return self.log.whole(constants.GLOBAL_BATCH_SIZE)

    @property
    def sequence_length(self) -> int | None:
        """Tokens in a sequence."""
        return self.log.whole(constants.MAX_SEQUENCE_LENGTH)

    @cached_property
    def devices(self) -> int | None:
        """Devices: from the settings, or from the log as GBS / (MBS x accumulation) x TP x PP x CP."""
        if self.run.settings:
            return Layout.of(self.run.settings).world_size
        micro, accumulation = (self.log.whole(key) for key in (constants.MICRO_BATCH_SIZE, ACCUMULATION))
        model = [self.log.whole(key) for key in MODEL_PARALLEL]
        if self.batch and micro and accumulation and all(model):
            return self.batch // (micro * accumulation) * math.prod(size or 1 for size in model)
        return self._given_devices

    @property
    def gpu(self) -> str:
        """Name of the GPU, one of `GPUS`; empty if unknown."""
        return (self.run.settings.gpu if self.run.settings else "") or self._given_gpu

    @cached_property
    def flops_per_token(self) -> int | None:
        """FLOPs of training on one token (`llama31.estimates.speed`); None for other models than 8b."""
        is_8b = self.log.value(constants.SUBMISSION_BENCHMARK) == rules.BENCHMARK
        is_other_size = any(departure.startswith("SIZE=") for departure in self.log.declared or ())
        if not is_8b or is_other_size or not self.sequence_length:
            return None
        return speed.flops_per_token(replace(Settings(), seq_length=self.sequence_length), rules.VOCABULARY_SIZE)

    # Convergence

    @cached_property
    def evaluations(self) -> list[EvaluationFigures]:
        """All evaluations, with the samples of their eval_accuracy lines, as MLCommons' tools count them."""
        return [
            EvaluationFigures(int(record.samples), float(record.value))
            for record in self.log.all(constants.EVAL_ACCURACY)
            if _is_usable(record)
        ]

    @property
    def unusable(self) -> list[str]:
        """The eval_accuracy lines without a loss or a sample count, described."""
        return [
            f"{constants.EVAL_ACCURACY} in line {record.number}: {shown(record.value)}"
            f" at {constants.SAMPLES_COUNT} {shown(record.samples)}"
            for record in self.log.all(constants.EVAL_ACCURACY)
            if not _is_usable(record)
        ]

    @cached_property
    def samples_to_target(self) -> int | None:
        """Samples at the first evaluation at or below the target."""
        return next((one.samples for one in self.evaluations if one.loss <= self.log.target), None)

    @cached_property
    def training_loss(self) -> Series:
        """Training loss, with the samples of each step."""
        return self.run.metrics.loss if self.run.metrics.loss.value else named_steps(self.run.mlperf, TRAINING_LOSS)

    # Time

    @cached_property
    def time_to_train(self) -> float | None:
        """From run_start to run_stop; None during the run, or if the log has several of either."""
        is_repeated = any(len(self.log.all(key)) > 1 for key in (constants.RUN_START, constants.RUN_STOP))
        return None if is_repeated else self._between(constants.RUN_START, constants.RUN_STOP)

    @cached_property
    def initialisation(self) -> float | None:
        """From the first init_start to the last init_stop."""
        return self._between(constants.INIT_START, constants.INIT_STOP)

    @property
    def status(self) -> str | None:
        """Status of the run's end in the log."""
        stop = self.log.last(constants.RUN_STOP)
        status = stop.metadata.get(constants.STATUS) if stop else None
        return status if isinstance(status, str) else None

    @property
    def reason(self) -> str:
        """Reason for a failure in the log."""
        stop = self.log.last(constants.RUN_STOP)
        return str(stop.metadata.get("reason", "")) if stop else ""

    @property
    def untimed(self) -> list[str]:
        """Why there is no time to train although the log has a start and an end."""
        counts = {key: len(self.log.all(key)) for key in (constants.RUN_START, constants.RUN_STOP)}
        if all(counts.values()) and self.time_to_train is None:
            repeated = [f"{count} {key} lines" for key, count in counts.items() if count > 1]
            return repeated or [f"its {constants.RUN_STOP} before its {constants.RUN_START}"]
        return []

    @property
    def is_success(self) -> bool:
        """Whether the run reached its target and its status is success: its time counts."""
        return self.status == constants.SUCCESS and self.samples_to_target is not None

    @cached_property
    def blocks(self) -> list[Block]:
        """Finished training blocks."""
        return list(timeline.blocks(self.log, self.run.metrics))

    @cached_property
    def restarts(self) -> list[Restart]:
        """Jobs that resumed the run."""
        return timeline.restarts(self.log.records, self.run.metrics)

    @cached_property
    def parts(self) -> dict[str, float]:
        """How the time to train was spent; `other` is what the log does not account for."""
        evaluations = intervals(self.log, constants.EVAL_START, constants.EVAL_STOP)
        known = {
            "training": sum(block.training for block in self.blocks),
            "evaluation": sum(seconds for _, seconds in evaluations),
            "restarts": sum(restart.seconds for restart in self.restarts),
        }
        return {**known, "other": (self.time_to_train or 0.0) - sum(known.values())}

    @property
    def evaluation_share(self) -> float | None:
        """Share of the time to train that evaluations took."""
        return self.parts["evaluation"] / self.time_to_train if self.time_to_train else None

    # Speed

    @cached_property
    def sequences_per_second(self) -> float | None:
        """Over all training blocks with known samples and time, except those with a restart."""
        blocks = [block for block in self.blocks if block.rate]
        seconds = sum(block.seconds for block in blocks)
        return sum(block.sequences or 0 for block in blocks) / seconds if seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of all devices together."""
        return _product(self.sequences_per_second, self.sequence_length)

    @property
    def tokens_per_second_per_device(self) -> float | None:
        """Tokens per second of one device."""
        return _product(self.tokens_per_second, 1 / self.devices if self.devices else None)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: tokens/s of a device x FLOPs per token / dense bf16 peak of the device."""
        return self._utilisation(GPUS[self.gpu].bf16_flops if self.gpu in GPUS else None)

    @property
    def own_peak(self) -> tuple[str, float | None]:
        """Name and dense peak, in FLOP/s, of the precision that the log states for linear layers."""
        stated = self.log.value(constants.LOWEST_NUMERICAL_PRECISION_IN_LINEAR)
        return GPUS[self.gpu].peak(stated) if self.gpu in GPUS else ("", None)

    @property
    def utilisation(self) -> float | None:
        """Like `mfu`, relative to the peak of the precision in the log."""
        return self._utilisation(self.own_peak[1])

    def _utilisation(self, peak: float | None) -> float | None:
        return _product(self.tokens_per_second_per_device, self.flops_per_token, 1 / peak if peak else None)

    @property
    def is_benchmark(self) -> bool:
        """Whether its times are comparable with published ones: same model, sequence length and target."""
        return (
            self.flops_per_token is not None
            and self.sequence_length == rules.SEQUENCE_LENGTH
            and self.log.target == rules.TARGET
        )

    @cached_property
    def step_times(self) -> StepTimes | None:
        """Step times; if only means are known, the batch size divided by the rates of `blocks`."""
        means = [self.batch / block.rate for block in self.blocks if block.rate and self.batch]
        return step_times.of_run(self.run.mlperf, self.run.metrics, means)

    @property
    def median_step(self) -> float | None:
        """Median of the step times."""
        return self.step_times.percentile(50) if self.step_times else None

    def _between(self, start: str, stop: str) -> float | None:
        first, last = self.log.first(start), self.log.last(stop)
        return seconds_between(first, last) if first and last else None


def _is_usable(evaluation: Record) -> bool:
    return is_whole(evaluation.samples, 0) and is_number(evaluation.value)


def _product(*factors: Any) -> float | None:
    return None if None in factors else math.prod(factors)
