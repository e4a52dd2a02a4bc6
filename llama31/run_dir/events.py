"""Events of a run, from the trainer to its observers: the MLPerf log, the metrics file, the progress on the screen.

Standard library only, so that observers can be tested without a trainer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

# Status and exit code of a run
SUCCESS: Literal["success"] = "success"
ABORTED: Literal["aborted"] = "aborted"
FAILED = 1
BAD_INPUT = 2
TARGET_NOT_REACHED = 3
INTERRUPTED = 130  # as in shells, after SIGINT
WORST_LAST = (0, TARGET_NOT_REACHED, INTERRUPTED, BAD_INPUT, FAILED)


def worst(exit_codes: Iterable[int]) -> int:
    """Return the worst exit code of several runs; 0 for none."""
    return max(exit_codes, key=WORST_LAST.index, default=0)


@dataclass(frozen=True)
class Step:
    """A finished optimizer step."""

    step: int
    """Steps since the start of training, this one included."""
    consumed_samples: int
    """Training sequences since the start of training, this step's included."""
    loss: float
    """Mean training loss of the step's tokens, nats per token."""
    learning_rate: float
    """Learning rate that the step used."""
    seconds: float
    """Wall time since the end of the previous step or evaluation; see `read_after`."""
    read_after: int | None = None
    """With LOG_INTERVAL above 1: the step after which the loss was read; `seconds` is then the mean of the steps that
    were read together. None: after this step."""


SLOW = 1.1
"""Times the median that a rank takes before it is called slow."""


@dataclass(frozen=True)
class RankTime:
    """The mean time of one rank in a step, before it waits for the others."""

    rank: int
    host: str
    device: str
    """GPU and its number on the host, or CPU."""
    seconds: float

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host}, {self.device})"


@dataclass(frozen=True)
class RankTimes:
    """How long the slowest ranks compute in a step, compared with the median rank."""

    step: int
    steps: int
    """Steps up to `step` that the times are means of."""
    median: float
    """Median of all ranks, seconds."""
    slowest: tuple[RankTime, ...]
    """The slowest ranks, the slowest first."""

    def lagging(self) -> list[str]:
        """Return the ranks that take more than SLOW times the median, with their times, as text."""
        return [f"{one}: {one.seconds / self.median:.2f} x" for one in self.slowest if one.seconds > SLOW * self.median]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation."""

    step: int
    consumed_samples: int
    loss: float
    """Mean over all tokens of the evaluated sequences, nats per token (log perplexity)."""
    samples: int
    """Sequences evaluated."""
    token_hash: str
    """Fingerprint of the evaluated token ids (`llama31.data.datasets.fingerprint`)."""
    seconds: float
    reached_target: bool
    memory: int | None = None
    """Peak memory of any rank of this job so far, bytes (`llama31.model.device.peak_memory`). None: unknown."""


@dataclass(frozen=True)
class Saved:
    """A saved checkpoint."""

    step: int
    consumed_samples: int
    path: str
    bytes: int
    seconds: float
    stay: list[str] = field(default_factory=list)
    """A line for each older checkpoint that could not be removed."""
    blocked: float | None = None
    """Seconds for which training waited; fewer than `seconds` with SAVE_ASYNC. None: unknown."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Literal["success", "aborted"]
    """success: an evaluation reached the target. aborted: anything else."""
    reason: str
    """One line to show to users."""
    exit_code: int
    """0 for success, else FAILED, BAD_INPUT, TARGET_NOT_REACHED or INTERRUPTED."""
    step: int
    consumed_samples: int
    memory: int | None = None
    """Peak memory at the end of training, as in `Evaluation`; None if training did not end normally."""


class Observer:
    """Base class of what records a run. Rank 0 calls the methods in this order:

    run_started; step_ended after each step; between two steps evaluation_started and evaluation_ended, then
    checkpoint_saved, with SAVE_ASYNC some steps after the checkpoint's; run_stopped once at the end, however the run
    ends.
    """

    def run_started(self, consumed_samples: int) -> None:
        """Timing starts: the model is initialised, no training data has been read."""

    def step_ended(self, step: Step) -> None:
        """An optimizer step has ended."""

    def ranks_timed(self, times: RankTimes) -> None:
        """The ranks have compared their times; before the `step_ended` of the last step among them."""

    def evaluation_started(self, step: int, consumed_samples: int) -> None:
        """An evaluation starts after `step` steps and `consumed_samples` training sequences."""

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        """An evaluation has ended; training continues unless it reached the target."""

    def checkpoint_saved(self, saved: Saved) -> None:
        """A checkpoint is complete."""

    def run_stopped(self, outcome: Outcome) -> None:
        """The run is over."""
