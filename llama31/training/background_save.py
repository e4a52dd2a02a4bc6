"""SAVE_ASYNC: training waits while the state is copied, then a process beside each rank saves it.

The ranks vote after each step whether all of their processes are done; they learn of a failure in the same way.
"""

import os
import time
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from llama31.checkpoint.new_checkpoint import NewCheckpoint
from llama31.common.errors import UserError
from llama31.run_dir.events import Saved
from llama31.training.save_process import FOR_THE_USER, Failure, SaveJob, SaveProcess
from llama31.training.state_copy import copy_state


class SaveFailed(Exception):
    """A checkpoint could not be saved; the message says why."""


class BackgroundSaver:
    """Save checkpoints in the background, one at a time. `start` and `completed` are collective.

    To be made before the rank has a model, for it forks.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        """Directory of the checkpoint that is being saved, if one is."""
        self._process = SaveProcess(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def start(self, trainer: Trainer, new: NewCheckpoint, began: float) -> None:
        """Copy the state, and start to save it; `began` is when training stopped for this, by the monotonic clock."""
        assert self.path is None, "one save at a time"
        self._new, self._began, self.path = new, began, new.path
        state = copy_state(trainer, new.partial, self._process.memory)
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._process.start(SaveJob(new, state, address))
        self._blocked = time.monotonic() - began

    def completed(self, *, wait: bool) -> Saved | None:
        """Return what was saved, or None if that is not complete yet; with `wait`, wait for it.

        Raises SaveFailed, or UserError, on all ranks if it failed on any.
        """
        began = time.monotonic()
        if not wait:
            is_busy = torch.tensor(not self._process.is_done(), dtype=torch.int32, device=torch.cuda.current_device())
            torch.distributed.all_reduce(is_busy, torch.distributed.ReduceOp.MAX)
            if is_busy.item():
                return None
        result = self._process.result()
        ranks = [result] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, result)
        failures = [of_rank for of_rank in ranks if isinstance(of_rank, Failure)]
        if failures or isinstance(result, Failure):
            worst = min(failures, key=lambda failure: failure.kind)
            raise UserError(worst.text) if worst.kind == FOR_THE_USER else SaveFailed(f"{self.path}: {worst.text}")
        self.path = None
        manifest, now = self._new.manifest, time.monotonic()
        return Saved(
            manifest.step,
            manifest.consumed_samples,
            str(self._new.path),
            result.bytes,
            now - self._began,
            result.stay,
            blocked=self._blocked + now - began,
        )

    def cancel(self) -> None:
        """End the process, and with it the save. What is written stays as an incomplete checkpoint."""
        self._process.cancel()
