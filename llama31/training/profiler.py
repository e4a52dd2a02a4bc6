"""Profile some steps of some ranks (PROFILE), with named ranges, into the run directory."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core.utils import get_model_config

from llama31.config import paths
from llama31.model.ranges import RANGES, connect
from llama31.settings import Profiler, Settings

STEP, EVALUATION = "step", "evaluation"


class ProfileSteps(Callback):
    """Profile the steps PROFILE_STEP_START to PROFILE_STEP_END, with the evaluations after them, on one rank.

    With `torch` the rank writes RUN_DIR/profile/rank-N.json.gz, a trace for Perfetto or chrome://tracing. With `nsys`
    it only tells Nsight Systems, under which it runs (`llama31.launch.nsys`), when to record.
    """

    def __init__(self, settings: Settings, run_dir: Path, rank: int):
        self.first, self.last = settings.profile_step_start, settings.profile_step_end
        self.trace = run_dir / paths.PROFILE / f"rank-{rank}.json.gz"
        self.by_torch = settings.profile is Profiler.torch
        self._profile: torch.profiler.profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Connect the ranges with Megatron's model and optimizer."""
        for chunk in trainer.strategy.megatron_parallel:
            connect(get_model_config(chunk))
        for optimizer in trainer.optimizers:
            connect(optimizer.mcore_optimizer.config)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin before the first step, and open the range of each step."""
        if RANGES.is_on and trainer.global_step >= self.last:
            self._end()
        elif not RANGES.is_on and self.first <= trainer.global_step + 1 <= self.last:
            self._begin()
        RANGES.open(STEP)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close the range of a step."""
        RANGES.close(STEP)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the range of an evaluation."""
        RANGES.open(EVALUATION)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the range of an evaluation."""
        RANGES.close(EVALUATION)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End after the last step of a run that is shorter."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End early: what led to a failure may be in the trace."""
        with contextlib.suppress(Exception):  # of a broken device or a full disk; the failure itself is the outcome
            self._end()

    def _begin(self) -> None:
        RANGES.is_on = True
        if self.by_torch:
            self._profile = torch.profiler.profile(record_shapes=True, profile_memory=True)
            self._profile.start()
        else:
            torch.cuda.profiler.start()

    def _end(self) -> None:
        if not RANGES.is_on:
            return
        for name in (EVALUATION, STEP):
            RANGES.close(name)
        RANGES.is_on = False
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # for the kernels of the last step
        if self._profile is None:
            torch.cuda.profiler.stop()
            return
        self._profile.stop()
        self.trace.parent.mkdir(exist_ok=True)
        partial = self.trace.with_name(f".{self.trace.name}")  # its ending tells torch to compress
        self._profile.export_chrome_trace(str(partial))
        partial.replace(self.trace)
        self._profile = None
