"""Where a job starts: from random weights, from converted ones, or from a checkpoint of its own run."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llama31.common.files import atomic_writer
from llama31.common.json_files import read_json
from llama31.settings import Settings


@dataclass(frozen=True)
class Start:
    """Where a job starts. Steps, samples and departures are those of the run so far."""

    checkpoint: str = ""
    """Checkpoint to go on from, or whose weights to take; empty for random weights."""
    weights_only: bool = False
    """Take the weights of `checkpoint` alone."""
    job: int = 1
    """Number of this job in the chain."""
    step: int = 0
    consumed_samples: int = 0
    departures: list[str] = field(default_factory=list)
    run: str | None = None
    """Name of the run, as its first job had it. None: not known, or this is the first job."""

    @property
    def goes_on(self) -> bool:
        """The job goes on with a run that others began."""
        return bool(self.checkpoint) and not self.weights_only

    def samples_after(self, step: int, global_batch_size: int) -> int:
        """Training sequences that the run has seen after a step of this job."""
        return self.consumed_samples + (step - self.step) * global_batch_size

    def last_step(self, settings: Settings, available_samples: int) -> tuple[int, str]:
        """Last optimizer step of the job if the target is not reached, and why it is that one.

        `available_samples`: training sequences that the data has.
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
        """What the job starts from, in a person's words."""
        if self.goes_on:
            return f"goes on after step {self.step:,} ({self.consumed_samples:,} sequences), from {self.checkpoint}"
        if self.weights_only:
            return f"starts from the weights in {self.checkpoint}, with a fresh optimizer: not a benchmark result"
        return "starts from random weights"


def store(file: Path, start: Start) -> None:
    """Writes down where a job starts, for its ranks."""
    with atomic_writer(file) as written:
        written.write(json.dumps(asdict(start), indent=2).encode() + b"\n")


def load(file: Path) -> Start:
    """What `store` wrote; random weights where there is nothing. Raises UserError where the file is damaged."""
    return read_json(Start, file) if file.is_file() else Start()
