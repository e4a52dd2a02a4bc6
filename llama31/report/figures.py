"""The figures of a run, from what its log and metrics say and nothing else. None: they do not say.

Times are seconds, losses nats per token, samples training sequences.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.estimates import speed
from llama31.estimates.gpus import GPUS
from llama31.layout import Layout
from llama31.mlperf.records import RUN_RESUMED, Log, Record, is_number, is_whole
from llama31.report.logs import Series
from llama31.report.runs import Run
from llama31.settings import Settings

STEP_TIME, TRAINING_LOSS = "train_step_time", "reduced_train_loss"
"""Statistics of NVIDIA's logs, with the number of a step: its seconds, its loss."""
FAR_OUT = 3.0  # interquartile ranges above the upper quartile: Tukey 1977, Exploratory Data Analysis, chapter 2


@dataclass(frozen=True)
class Given:
    """What the user says of runs whose files do not."""

    devices: int | None = None
    gpu: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation."""

    samples: int
    loss: float


@dataclass(frozen=True)
class Block:
    """A stretch of training, from block_start to block_stop."""

    end: int | None
    """Samples at its end."""
    sequences: int | None
    seconds: float
    """All of it, with restarts and saves of checkpoints."""
    restarted: bool

    @property
    def rate(self) -> float | None:
        """Sequences per second; None with a restart, whose time is no training."""
        return None if self.restarted or not self.sequences or self.seconds <= 0 else self.sequences / self.seconds


@dataclass(frozen=True)
class Restart:
    """A job that went on with the run."""

    samples: int | None
    """Of the checkpoint that it went on from."""
    seconds: float
    """Time lost: from the last training step that the checkpoint holds to when training went on."""
    is_bound: bool
    """The time of those steps is not known, so that `seconds`, from the log's last line before, holds them too."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds per step."""

    kind: str
    """What the values are, in words."""
    seconds: np.ndarray
    steps: np.ndarray
    """Number of each step, nan where the log has none."""

    def percentile(self, percent: float) -> float:
        """With linear interpolation between values."""
        return float(np.percentile(self.seconds, percent))

    @cached_property
    def limit(self) -> float:
        """Beyond it a step is an outlier: upper quartile + 3 interquartile ranges."""
        lower, upper = self.percentile(25), self.percentile(75)
        return upper + FAR_OUT * (upper - lower)

    @cached_property
    def outliers(self) -> np.ndarray:
        """Indices of the outliers, slowest first."""
        found = np.flatnonzero(self.seconds > self.limit)
        return found[np.argsort(-self.seconds[found], kind="stable")]


class Figures:
    """The figures of one run."""

    def __init__(self, run: Run, given: Given | None = None):
        self.run = run
        self.given = given or Given()
        self.log: Log = run.mlperf.log

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
        """Devices: as settings say, or the log's batch and layout give, GBS / (MBS x accumulation) x TP x PP x CP."""
        if self.run.settings:
            return Layout.of(self.run.settings).world_size
        micro, accumulation = (self.log.whole(key) for key in (constants.MICRO_BATCH_SIZE, ACCUMULATION))
        model = [self.log.whole(key) for key in MODEL_PARALLEL]
        if self.batch and micro and accumulation and all(model):
            return self.batch // (micro * accumulation) * math.prod(size or 1 for size in model)
        return self.given.devices

    @property
    def gpu(self) -> str:
        """Name of the GPU, one of `GPUS`; empty where nobody says."""
        name = self.run.settings.gpu if self.run.settings else ""
        return name or self.given.gpu

    @cached_property
    def flops_per_token(self) -> int | None:
        """Operations of training on one token (`llama31.estimates.speed`), of the benchmark's model alone."""
        departures = self.log.declared or []
        is_8b = self.log.value(constants.SUBMISSION_BENCHMARK) == rules.BENCHMARK and not any(
            departure.startswith("SIZE=") for departure in departures
        )
        if not is_8b or not self.sequence_length:
            return None
        return speed.flops_per_token(replace(Settings(), seq_length=self.sequence_length), rules.VOCABULARY_SIZE)

    # Convergence

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations, with the samples that their eval_accuracy lines give, as MLCommons' tools count."""
        return [
            Evaluation(int(record.samples), float(record.value))
            for record in self.log.all(constants.EVAL_ACCURACY)
            if is_whole(record.samples, 0) and is_number(record.value)
        ]

    @cached_property
    def samples_to_target(self) -> int | None:
        """Samples at the first evaluation at or below the target."""
        return next((one.samples for one in self.evaluations if one.loss <= self.log.target), None)

    @cached_property
    def training_loss(self) -> Series:
        """Training loss, with the samples of each step."""
        return self.run.metrics.loss if self.run.metrics.loss.value else self._statistic(TRAINING_LOSS)

    # Time

    @cached_property
    def time_to_train(self) -> float | None:
        """From run_start to run_stop; None while the run goes on, and where the log has several of either."""
        return self._between(constants.RUN_START, constants.RUN_STOP)

    @cached_property
    def initialisation(self) -> float | None:
        """From the first init_start to init_stop, before the clock runs."""
        return self._between(constants.INIT_START, constants.INIT_STOP, several=True)

    @property
    def status(self) -> str | None:
        """How the run ended, in the log's word."""
        stop = self.log.last(constants.RUN_STOP)
        status = stop.metadata.get(constants.STATUS) if stop else None
        return status if isinstance(status, str) else None

    @property
    def reason(self) -> str:
        """Why the run did not succeed, in the log's words."""
        stop = self.log.last(constants.RUN_STOP)
        return str(stop.metadata.get("reason", "")) if stop else ""

    @property
    def ambiguities(self) -> list[str]:
        """What the log has several of, and so no one can say which counts."""
        counts = {key: len(self.log.all(key)) for key in (constants.RUN_START, constants.RUN_STOP)}
        return [f"{count} {key} lines" for key, count in counts.items() if count > 1]

    @property
    def is_success(self) -> bool:
        """The run reached its target and says so: its time counts."""
        return self.status == constants.SUCCESS and self.samples_to_target is not None

    @cached_property
    def blocks(self) -> list[Block]:
        """Stretches of training that came to their end."""
        return list(self._blocks())

    @cached_property
    def restarts(self) -> list[Restart]:
        """Jobs that went on with the run."""
        records = self.log.records
        return [
            self._restart(records[number - 1], record)
            for number, record in enumerate(records)
            if record.key == RUN_RESUMED and number
        ]

    @cached_property
    def evaluating(self) -> float:
        """All evaluations, from eval_start to eval_stop."""
        return sum(seconds for _, seconds in self._intervals(constants.EVAL_START, constants.EVAL_STOP))

    @cached_property
    def restarting(self) -> float:
        """Time lost to all restarts."""
        return sum(restart.seconds for restart in self.restarts)

    @cached_property
    def training(self) -> float:
        """All stretches of training, but for what restarts took of them."""
        return sum(block.seconds for block in self.blocks) - self.restarting

    @property
    def parts(self) -> dict[str, float]:
        """What the time to train went into; `other` is what no line of the log explains."""
        known = {"training": self.training, "evaluation": self.evaluating, "restarts": self.restarting}
        return {**known, "other": (self.time_to_train or 0.0) - sum(known.values())}

    def share(self, seconds: float) -> float | None:
        """Share of the time to train."""
        return seconds / self.time_to_train if self.time_to_train else None

    @property
    def evaluation_share(self) -> float | None:
        """Share of the time to train that evaluations took."""
        return self.share(self.evaluating)

    # Speed

    @cached_property
    def sequences_per_second(self) -> float | None:
        """Over all stretches of training whose samples and time are known, but for those with a restart."""
        blocks = [block for block in self.blocks if block.rate]
        seconds = sum(block.seconds for block in blocks)
        return sum(block.sequences or 0 for block in blocks) / seconds if seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """Sequences per second, in tokens."""
        return _product(self.sequences_per_second, self.sequence_length)

    @property
    def tokens_per_second_per_device(self) -> float | None:
        """Tokens per second, by the number of devices."""
        return _product(self.tokens_per_second, 1 / self.devices if self.devices else None)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: tokens/s of a device x operations of a token / its dense bf16 peak."""
        peak = GPUS[self.gpu].bf16_flops if self.gpu in GPUS else None
        return _product(self.tokens_per_second_per_device, self.flops_per_token, 1 / peak if peak else None)

    @cached_property
    def step_times(self) -> StepTimes | None:
        """Each step's time where metrics have it, those that the log names, or means from block to block."""
        for kind, series in (("each step", self.run.metrics.seconds), (NAMED_STEPS, self._statistic(STEP_TIME))):
            if series.value:
                return StepTimes(kind, np.array(series.value), np.array(series.step))
        rates = [block.rate for block in self.blocks if block.rate]
        if not rates or not self.batch:
            return None
        means = self.batch / np.array(rates)
        return StepTimes("mean of each stretch between evaluations", means, np.full(len(means), math.nan))

    @property
    def median_step(self) -> float | None:
        """Median of the step times."""
        return self.step_times.percentile(50) if self.step_times else None

    def _between(self, start: str, stop: str, *, several: bool = False) -> float | None:
        starts, stops = self.log.all(start), self.log.all(stop)
        if not starts or not stops or (not several and (len(starts), len(stops)) != (1, 1)):
            return None
        return _seconds(starts[0], stops[-1])

    def _intervals(self, start: str, stop: str) -> Iterator[tuple[tuple[int, int], float]]:
        """Places in the log of a start and the next stop, and the seconds between."""
        opened = None
        for place, record in enumerate(self.log.records):
            if record.key == start and opened is None:
                opened = place
            elif record.key == stop and opened is not None:
                seconds = _seconds(self.log.records[opened], record)
                if seconds is not None:
                    yield (opened, place), seconds
                opened = None

    def _blocks(self) -> Iterator[Block]:
        """A block's samples are those of the eval_start behind it: some logs count anew in each block_stop.

        The last block of a run without a target has none behind it; then block_stop's are taken if they go on.
        """
        records, before = self.log.records, 0
        for (start, stop), seconds in self._intervals(constants.BLOCK_START, constants.BLOCK_STOP):
            behind = next((record for record in records[stop:] if record.key in BEHIND_BLOCK), None)
            says = behind if behind and behind.key == constants.EVAL_START else records[stop]
            end = int(says.samples) if is_whole(says.samples, before) else None
            restarted = any(record.key == RUN_RESUMED for record in records[start:stop])
            yield Block(end, None if end is None else end - before, seconds, restarted)
            before = before if end is None else end

    def _restart(self, before: Record, resumed: Record) -> Restart:
        gap = _seconds(before, resumed) or 0.0
        if not is_whole(resumed.samples, 0):
            return Restart(None, gap, True)
        samples = int(resumed.samples)
        if not is_whole(before.samples, 0):
            return Restart(samples, gap, True)
        known = 0.0
        for series in (self.run.metrics.seconds, self.run.metrics.checkpoints):
            places = np.array(series.samples)
            trained = (places > before.samples) & (places <= samples)
            known += float(np.array(series.value)[trained].sum())
        return Restart(samples, gap - known, not known and samples > before.samples)

    def _statistic(self, name: str) -> Series:
        """A statistic's values that name their step; others are means."""
        series = self.run.mlperf.statistics.get(name, Series())
        named = Series()
        for row in zip(series.value, series.time_ms, series.samples, series.step, strict=True):
            if not math.isnan(row[-1]):
                named.add(*row)
        return named


NAMED_STEPS = "steps that the log names"
ACCUMULATION = constants.GRADIENT_ACCUMULATION_STEPS
MODEL_PARALLEL = (constants.TENSOR_PARALLELISM, constants.PIPELINE_PARALLELISM, constants.CONTEXT_PARALLELISM)
BEHIND_BLOCK = (constants.EVAL_START, constants.BLOCK_START, constants.RUN_STOP)


def _seconds(start: Record, stop: Record) -> float | None:
    seconds = (stop.time_ms - start.time_ms) / 1000
    return seconds if is_number(seconds) else None


def _product(*factors: Any) -> float | None:
    return None if None in factors else math.prod(factors)
