"""SAVE_ASYNC: training waits while the state is copied, then a process beside each rank saves it.

The ranks vote after each step whether all of their processes are done; they learn of a failure in the same way.
"""

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from lightning.pytorch import Trainer

from llama31.checkpoint.new_checkpoint import NewCheckpoint
from llama31.common import rank_messages
from llama31.common.errors import UserError
from llama31.run_dir.events import Saved
from llama31.training.save_process import FOR_THE_USER, Completed, Failure, SaveJob, SaveProcess
from llama31.training.state_copy import copy_state

PATIENCE = 1
"""Seconds between two votes while all wait for a save. A process that has failed would end the wait at the next one."""


class SaveFailed(Exception):
    """A checkpoint could not be saved; the message says why."""


class BackgroundSaver:
    """Save checkpoints in the background, one at a time. `start` and `completed` are collective.

    To be made before the rank has a model, for it forks.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        """Directory of the checkpoint that is being saved, if one is."""
        self._result: Completed | Failure | None = None
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
        while True:
            self._result = self._result or self._process.result(PATIENCE if wait else 0)
            mine = self._result
            vote = torch.tensor([mine is None, isinstance(mine, Failure)], dtype=torch.int32)
            vote = vote.to(torch.cuda.current_device())
            torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MAX)
            is_busy, has_failed = vote.tolist()
            if has_failed:
                self._raise_failure()
            if not is_busy:
                break
            if not wait:
                return None
        assert isinstance(self._result, Completed)
        result, self._result = self._result, None
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

    def _raise_failure(self) -> NoReturn:
        """Raise the failure of any rank, on all of them."""
        mine = asdict(self._result) if isinstance(self._result, Failure) else None
        failures = [Failure(**of_rank) for of_rank in rank_messages.all_gather(mine) if of_rank]
        worst = min(failures, key=lambda failure: failure.kind)
        raise UserError(worst.text) if worst.kind == FOR_THE_USER else SaveFailed(f"{self.path}: {worst.text}")

    def cancel(self) -> None:
        """End the process, and with it the save. What is written stays as an incomplete checkpoint."""
        self._process.cancel()
