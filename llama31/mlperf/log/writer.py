"""Write the MLPerf log of a run: one file of `:::MLLOG` lines, complete for rulesets 5.1.0 to 6.1.0.

The required keys and values: the rule files of mlperf-logging's compliance_checker (training_*/common.yaml,
closed_common.yaml, closed_llama31_8b.yaml). `llama31.mlperf.check.one_log` checks a log.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from mlperf_logging.mllog import constants
from mlperf_logging.mllog.mllog import MLLogger

from llama31 import rules
from llama31.common.errors import UserError
from llama31.estimates.gpus import GB
from llama31.mlperf.log.reader import TOKEN, read
from llama31.mlperf.log.records import RUN_RESUMED, TARGET_ACCURACY, TRACKED_STATS
from llama31.run_dir.events import Evaluation, Observer, Outcome, Step
from llama31.settings import Settings

REPOSITORY = Path(__file__).parents[3]


class LowestPrecision(NamedTuple):
    """The narrowest number formats of a run, by the names in ruleset 6.1.0's common.yaml."""

    linear: str
    """Format of the operands of linear layers."""
    attention: str
    """Format of the operands of attention."""
    communication: str
    """Format of what ranks send to each other."""


class _LineFile(logging.Handler):
    """Append each message as a line and flush it, so that a killed run leaves a complete log."""

    def __init__(self, path: Path):
        super().__init__()
        self._file = path.open("a", encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.INFO:
            # MLLogger caught the error that lost a line, and logs it here as text to continue without the
            # line. The checker could not parse such a log, so re-raise the error instead.
            raise sys.exc_info()[1] or ValueError(record.getMessage())
        try:
            self._file.write(record.getMessage() + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self._file.name}: cannot write the MLPerf log: {error.strerror}") from error

    def close(self) -> None:
        with suppress(OSError):  # already reported by emit, which flushes each line
            self._file.close()
        super().close()


class MLPerfLog(Observer):
    """Writes the MLPerf log of a run. Only rank 0 has one.

    Call `init_started`, `describe` and `describe_precision`, then the methods of Observer. `run_stopped` closes the
    file; a run that ends before it starts to train leaves a log without run_start and run_stop.
    """

    def __init__(self, path: Path, *, resumed: bool = False):
        """Open `path` for appending. Raises UserError, here and later, if it cannot be written.

        With `resumed`, `path` holds the log of a resumed run up to its checkpoint (see `copy_to_resume`), and the next
        call is `run_started`.
        """
        try:
            self._file = _LineFile(path)
        except OSError as error:
            raise UserError(f"{path}: cannot open the MLPerf log: {error.strerror}") from error
        # Not from logging.getLogger, so that no other library's logging configuration applies to it.
        logger = logging.Logger("llama31.mlperf")  # noqa: LOG001
        logger.addHandler(self._file)
        self._mllog = MLLogger(logger, root_dir=re.escape(str(REPOSITORY)))
        # Checkpoints are saved within a training block.
        self._open_interval: Literal["block", "eval"] | None = "block" if resumed else None
        started = read(path)[0].first(constants.RUN_START) if resumed else None
        self._start_ms = started.time_ms if started else None
        self._block_samples = 0
        self._block_seconds = 0.0

    def init_started(self, *, caches_cleared: bool = False) -> None:
        """Log the start of initialisation; `caches_cleared`: the system's file caches were emptied for this run."""
        self._mllog.event(constants.CACHE_CLEAR, caches_cleared)
        self._mllog.start(constants.INIT_START)

    def describe(
        self,
        settings: Settings,
        *,
        seed: int,
        data_parallel_size: int,
        train_samples: int,
        departures: Sequence[str],
        init_checkpoint_step: int = 0,
    ) -> None:
        """Log the settings of the run.

        `train_samples`: training sequences in the data order. `departures`: a line for each departure from the closed
        division's rules, starting with the name of the setting; with any, the run is in the open division.
        """
        # No name among these values contains any of `rules.RCP_WORDS`: see `llama31.config.mlperf_names`.
        division = constants.OPEN if departures else settings.submission_division.value
        values = {
            constants.SUBMISSION_BENCHMARK: rules.BENCHMARK,
            constants.SUBMISSION_DIVISION: division,
            constants.SUBMISSION_ORG: settings.submission_org,
            constants.SUBMISSION_PLATFORM: settings.submission_platform,
            constants.SUBMISSION_STATUS: settings.submission_status.value,
            constants.SEED: seed,
            constants.GLOBAL_BATCH_SIZE: settings.gbs,
            constants.MICRO_BATCH_SIZE: settings.mbs,
            constants.GRADIENT_ACCUMULATION_STEPS: settings.gbs // (settings.mbs * data_parallel_size),
            constants.MAX_SEQUENCE_LENGTH: settings.seq_length,
            constants.TRAIN_SAMPLES: train_samples,
            constants.EVAL_SAMPLES: settings.eval_samples,
            constants.INIT_CHECKPOINT_STEP: init_checkpoint_step,
            constants.OPT_NAME: rules.OPTIMIZER_NAME,
            constants.OPT_BASE_LR: settings.max_lr,
            constants.OPT_END_LR: settings.end_lr,
            constants.OPT_LR_WARMUP_STEPS: settings.warmup,
            constants.OPT_LR_DECAY_STEPS: settings.max_steps - settings.warmup,
            constants.OPT_LR_DECAY_SCHEDULE: rules.DECAY_SCHEDULE,
            constants.OPT_ADAMW_BETA_1: rules.ADAM_BETA1,
            constants.OPT_ADAMW_BETA_2: rules.ADAM_BETA2,
            constants.OPT_ADAMW_EPSILON: rules.ADAM_EPSILON,
            constants.OPT_ADAMW_WEIGHT_DECAY: rules.WEIGHT_DECAY,
            constants.OPT_GRADIENT_CLIP_NORM: rules.CLIP_NORM,
            constants.MAX_STEPS: settings.max_steps,
            TARGET_ACCURACY: settings.target,
            constants.TENSOR_PARALLELISM: settings.tensor_parallel_size,
            constants.PIPELINE_PARALLELISM: settings.pipeline_parallel_size,
            constants.CONTEXT_PARALLELISM: settings.context_parallel_size,
            constants.EXPERT_PARALLELISM: 1,  # the model has no experts
            constants.CONFIG_FILENAME: Path(settings.config_filename).name or "command line",
        }
        metadata = {
            constants.SUBMISSION_DIVISION: {"departures": list(departures)},
            constants.EVAL_SAMPLES: {"eval_every": settings.eval_every, "start_eval_at": settings.start_eval_at},
            constants.OPT_ADAMW_WEIGHT_DECAY: {"decay_norms": settings.decay_norms},
        }
        for key, value in values.items():
            self._mllog.event(key, value, metadata.get(key))

    def describe_precision(self, lowest: LowestPrecision) -> None:
        """Log the number formats, which are known once model and optimizer are configured."""
        self._mllog.event(constants.LOWEST_NUMERICAL_PRECISION_IN_LINEAR, lowest.linear)
        self._mllog.event(constants.LOWEST_NUMERICAL_PRECISION_IN_ATTN, lowest.attention)
        self._mllog.event(constants.LOWEST_NUMERICAL_PRECISION_IN_COMM, lowest.communication)

    def run_started(self, consumed_samples: int) -> None:
        if self._open_interval:
            self._mllog.event(RUN_RESUMED, metadata={constants.SAMPLES_COUNT: consumed_samples})
            self._block_samples = consumed_samples
            return
        self._start_ms = time.time() * 1000
        self._mllog.end(constants.INIT_STOP)
        self._mllog.start(constants.RUN_START)
        self._start("block", consumed_samples)

    def step_ended(self, step: Step) -> None:
        self._block_seconds += step.seconds

    def evaluation_started(self, step: int, consumed_samples: int) -> None:
        if self._block_seconds:
            throughput = (consumed_samples - self._block_samples) / self._block_seconds
            metadata = {constants.SAMPLES_COUNT: consumed_samples, "step": step}
            self._mllog.event(TRACKED_STATS, {"throughput": throughput}, metadata)  # sequences per second
        self._stop_interval(consumed_samples)
        self._start("eval", consumed_samples)

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        samples = evaluation.consumed_samples
        # epoch_num is for ruleset 5.1.0's open division; MLCommons' readers use it as a sample count too.
        metadata = {constants.SAMPLES_COUNT: samples, constants.EPOCH_NUM: samples}
        self._mllog.event(constants.EVAL_ACCURACY, evaluation.loss, metadata)
        if evaluation.memory is not None:
            metadata = {constants.SAMPLES_COUNT: samples, "step": evaluation.step}
            self._mllog.event(TRACKED_STATS, {"max_memory_gb": round(evaluation.memory / GB, 3)}, metadata)
        self._stop_interval(samples)
        if not evaluation.reached_target:
            self._start("block", samples)

    def run_stopped(self, outcome: Outcome) -> None:
        try:
            if self._start_ms is not None:
                self._stop_interval(outcome.consumed_samples)
                metadata: dict[str, object] = {
                    constants.STATUS: outcome.status,
                    constants.SAMPLES_COUNT: outcome.consumed_samples,
                    "step": outcome.step,
                    "duration": f"{time.time() - self._start_ms / 1000:.3f} s",
                }
                if outcome.status == constants.ABORTED:
                    metadata["reason"] = rules.without_rcp_words(outcome.reason)  # it may contain the user's paths
                self._mllog.end(constants.RUN_STOP, metadata=metadata)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def _start(self, interval: Literal["block", "eval"], samples: int) -> None:
        """Open a training block or an evaluation after `samples` training sequences."""
        self._mllog.start(f"{interval}_start", metadata={constants.SAMPLES_COUNT: samples})
        self._open_interval = interval
        if interval == "block":
            self._block_samples, self._block_seconds = samples, 0.0

    def _stop_interval(self, samples: int) -> None:
        """Close the open training block or evaluation, if any."""
        if self._open_interval:
            self._mllog.end(f"{self._open_interval}_stop", metadata={constants.SAMPLES_COUNT: samples})
            self._open_interval = None


def copy_to_resume(source: Path, path: Path, departures: Sequence[str]) -> None:
    """Write the log of a run so far to `path`, for a resumed run to append to.

    `departures` are those of the whole run: if a later job departs from the closed division's rules, so does the run.
    """
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines):
        prefix, token, text = line.partition(TOKEN)
        fields = json.loads(text)
        if departures and fields["key"] == constants.SUBMISSION_DIVISION:
            fields["value"] = constants.OPEN
            fields["metadata"]["departures"] = list(departures)
            lines[number] = f"{prefix}{token} {json.dumps(fields)}\n"
    path.write_text("".join(lines), encoding="utf-8")
