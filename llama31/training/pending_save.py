"""A checkpoint that is written in the background: what is left to do for it, and the agreement of the ranks on it.

All collectives are on the main thread, between steps, so they cannot meet those of training. The ranks learn from the
vote after each step (`llama31.training.checkpoint_saver`) that all of them have written their parts. Then rank 0 writes
Megatron's table of contents, and a thread of its own publishes the checkpoint; the next votes tell that it has ended.
"""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

from llama31.checkpoint.formats import nemo
from llama31.common.errors import UserError
from llama31.training.background_writer import NICENESS, BackgroundWriter, WriteFailed

# States of a save on a rank; the highest of all ranks counts.
READY, BUSY, BROKEN = range(3)

Files = dict[str, tuple[int, str]]
"""Path within a checkpoint -> bytes, SHA-256."""


class PendingSave:
    """A save in the background. `advance` is collective.

    `publish` verifies the remaining files, which rank 0 wrote, and gives the checkpoint its name. It gets the files
    that the ranks wrote, and is called on rank 0 only, in a thread.
    """

    def __init__(self, request: AsyncRequest, path: Path, publish: Callable[[Files], None]):
        self.path = path
        self._request = request
        self._publish = publish
        self._writer = BackgroundWriter(request)
        self._thread: threading.Thread | None = None
        self._is_written = False
        self._error: Exception | None = None

    @property
    def state(self) -> int:
        """State on this rank."""
        if self._error:
            return BROKEN
        if self._is_written:
            return BUSY if self._thread and self._thread.is_alive() else READY
        if not self._writer.is_done():
            return BUSY
        try:
            self._writer.wait()
        except (WriteFailed, UserError):
            return BROKEN
        return READY

    def advance(self, *, wait: bool = False) -> bool:
        """Continue with what comes next when all ranks are ready or one is broken. Return whether it is published.

        With `wait`, wait for all of it. Raises UserError or WriteFailed on all ranks if any rank failed.
        """
        if not self._is_written:
            self._collect(wait)
            if not wait:
                return False
        if self._thread:
            self._thread.join()
        self._raise_any(self._error)
        return True

    def cancel(self) -> None:
        """Stop writing. What is written stays as an incomplete checkpoint, which the next start removes."""
        self._writer.cancel()

    def _collect(self, wait: bool) -> None:
        """Gather what the ranks have written, and let rank 0 publish it."""
        error: Exception | None = None
        written: Files = {}
        try:
            if wait or self._writer.is_done():
                written = self._writer.wait().files
        except (WriteFailed, UserError) as failure:
            error = failure
        self._raise_any(error)
        ranks: list[Files] = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, written)
        for finalize in self._request.finalize_fns:
            finalize()
        self._is_written = True
        if torch.distributed.get_rank() == 0:
            files = {f"{nemo.WEIGHTS}/{name}": entry for rank in ranks for name, entry in rank.items()}
            self._thread = threading.Thread(target=self._run_publish, args=(files,), daemon=True)
            self._thread.start()

    def _run_publish(self, files: Files) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)  # of this thread only
        try:
            self._publish(files)
        except Exception as error:  # noqa: BLE001 - raised by all ranks
            self._error = error

    def _raise_any(self, error: Exception | None) -> None:
        """Raise the first rank's error, if any rank has one, on all of them; collective."""
        ranks: list[tuple[str, bool] | None] = [None] * torch.distributed.get_world_size()
        mine = (str(error) or repr(error), isinstance(error, UserError)) if error else None
        torch.distributed.all_gather_object(ranks, mine)
        for rank, found in enumerate(ranks):
            if found and found[1]:
                raise UserError(found[0]) from error
            if found:
                raise WriteFailed(f"{self.path}: cannot be saved: rank {rank}: {found[0]}") from error
