"""Starting point of a job: random weights, converted weights, or a checkpoint of its own run."""

from dataclasses import dataclass, field
from pathlib import Path

from llama31.common.json_files import read_json_if_present, write_json
from llama31.settings import Settings


@dataclass(frozen=True)
class Start:
    """Starting point of a job. Steps, samples and departures count from the beginning of the run."""

    checkpoint: str = ""
    """Checkpoint to resume from or to take weights from; empty for random weights."""
    weights_only: bool = False
    """Load only the weights of `checkpoint`."""
    job: int = 1
    """Number of this job in the chain."""
    step: int = 0
    consumed_samples: int = 0
    departures: list[str] = field(default_factory=list)
    run: str | None = None
    """Name of the run, set by its first job. None: unknown, or this is the first job."""

    @property
    def resumes(self) -> bool:
        """Whether the job resumes a run that an earlier job started."""
        return bool(self.checkpoint) and not self.weights_only

    def samples_after(self, step: int, global_batch_size: int) -> int:
        """Return the training sequences that the run has consumed after a step of this job."""
        return self.consumed_samples + (step - self.step) * global_batch_size

    def last_step(self, settings: Settings, available_samples: int) -> tuple[int, str]:
        """Return the last optimizer step if the target is not reached, and what limits it.

        `available_samples`: training sequences in the data.
        """

        def step_of(samples: int) -> int:
            return self.step + (samples - self.consumed_samples) // settings.gbs

        limit = settings.sample_limit
        ends = [
            (settings.max_steps, f"MAX_STEPS={settings.max_steps} steps"),
            (step_of(available_samples), f"the {available_samples} sequences of training data"),
        ]
        if limit < available_samples:
            ends.append((step_of(limit), f"SAMPLES_AVAILABLE={limit} of the data's {available_samples} sequences"))
        if settings.stop_at_step is not None:
            ends.append((settings.stop_at_step, f"STOP_AT_STEP={settings.stop_at_step} steps"))
        return min(ends)

    def words(self) -> str:
        """Return a phrase for the plan."""
        if self.resumes:
            return f"resumes after step {self.step:,} ({self.consumed_samples:,} sequences), from {self.checkpoint}"
        if self.weights_only:
            return f"starts from the weights in {self.checkpoint}, with a fresh optimizer: not a benchmark result"
        return "starts from random weights"


NEW_RUN = Start()


def store(file: Path, start: Start) -> None:
    """Write start.json, for the ranks of a job."""
    write_json(file, start)


def load(file: Path) -> Start:
    """Read start.json; random weights if it is missing. Raises UserError if it is damaged."""
    return read_json_if_present(Start, file) or NEW_RUN
