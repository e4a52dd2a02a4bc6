"""Steps whose losses are still on the device: reading one waits for the GPU, so LOG_INTERVAL steps are read at once."""

import math
from dataclasses import dataclass, replace

import torch

from llama31.run_dir.events import Step


@dataclass
class PendingSteps:
    """The steps since losses were last read."""

    interval: int
    """LOG_INTERVAL: steps from one reading to the next."""

    def __post_init__(self) -> None:
        self._steps: list[Step] = []
        self._losses: list[torch.Tensor] = []

    def add(self, step: int, consumed_samples: int, loss: torch.Tensor, learning_rate: float) -> None:
        """Append a step; `loss` is its training loss, one number on the device."""
        self._steps.append(Step(step, consumed_samples, math.nan, learning_rate, math.nan))
        self._losses.append(loss.detach())

    def read_losses(self) -> list[float]:
        """Wait for the device, and return the losses of the steps."""
        return torch.stack(self._losses).tolist() if self._losses else []

    def clear(self, losses: list[float], seconds: float) -> list[Step]:
        """Return the steps with their losses and the mean time of a step; none are pending after it."""
        if self.interval > 1 and self._steps:
            after = self._steps[-1].step
            self._steps = [replace(step, read_after=after) for step in self._steps]
        found = [replace(step, loss=loss, seconds=seconds) for step, loss in zip(self._steps, losses, strict=True)]
        self._steps, self._losses = [], []
        return found
