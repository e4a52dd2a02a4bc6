"""What happens in a run, as the trainer tells it to whoever keeps a record: MLPerf log, metrics, progress.

Standard library alone, so that a record can be kept and tested without a trainer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

# How a run ends: status and exit code
SUCCESS: Literal["success"] = "success"
ABORTED: Literal["aborted"] = "aborted"
FAILED = 1
BAD_INPUT = 2
TARGET_NOT_REACHED = 3
INTERRUPTED = 130  # as shells give it for SIGINT
WORST_LAST = (0, TARGET_NOT_REACHED, INTERRUPTED, BAD_INPUT, FAILED)


def worst(exit_codes: Iterable[int]) -> int:
    """The exit code of several runs together; 0 for none."""
    return max(exit_codes, key=WORST_LAST.index, default=0)


@dataclass(frozen=True)
class Step:
    """One optimizer step that has ended."""

    step: int
    """Steps since the start of training, this one included."""
    consumed_samples: int
    """Training sequences since the start of training, this step's included."""
    loss: float
    """Mean training loss of the step's tokens, nats per token."""
    learning_rate: float
    """Learning rate that the step used."""
    seconds: float
    """Wall time from the former step's (or evaluation's) end to this one's."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation that has ended."""

    step: int
    consumed_samples: int
    loss: float
    """Mean over all tokens of the evaluated sequences, nats per token (log perplexity)."""
    samples: int
    """Sequences evaluated."""
    token_hash: str
    """Fingerprint of the evaluated token ids; see `llama31.data.fingerprint`."""
    seconds: float
    reached_target: bool
    memory: int | None = None
    """Most memory that a rank of this job has taken so far, bytes (`llama31.model.device.peak_memory`). None: not
    known."""


@dataclass(frozen=True)
class Saved:
    """One checkpoint that was saved."""

    step: int
    consumed_samples: int
    path: str
    bytes: int
    seconds: float
    stay: list[str] = field(default_factory=list)
    """A line for each older checkpoint that should have been removed, and was not."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: Literal["success", "aborted"]
    """success: an evaluation reached the target. aborted: anything else."""
    reason: str
    """One line for a person."""
    exit_code: int
    """0 for success, else FAILED, BAD_INPUT, TARGET_NOT_REACHED or INTERRUPTED."""
    step: int
    consumed_samples: int
    memory: int | None = None
    """As of an evaluation, at the end of training; None where it had no such end."""


class Observer:
    """Keeps a record of a run. Methods are called on rank 0, in this order:

    run_started, then for each step step_ended, with evaluation_started and evaluation_ended, and then
    checkpoint_saved, between two steps, and at last run_stopped, once, in whatever way the run ends.
    """

    def run_started(self, consumed_samples: int) -> None:
        """Timing starts: the model is initialised, no training data was touched."""

    def step_ended(self, step: Step) -> None:
        """An optimizer step has ended."""

    def evaluation_started(self, step: int, consumed_samples: int) -> None:
        """An evaluation begins after so many steps and training sequences."""

    def evaluation_ended(self, evaluation: Evaluation) -> None:
        """An evaluation has ended; unless it reached the target, training goes on."""

    def checkpoint_saved(self, saved: Saved) -> None:
        """A checkpoint is complete."""

    def run_stopped(self, outcome: Outcome) -> None:
        """The run is over."""
