"""A checkpoint that is written in the background: its stages, and the agreement of the ranks on it.

    GATHER    a thread of each rank exchanges shards of the optimizer state (`late_gather`)
    WRITE     a process of each rank writes its part and reads it back (`background_writer`)
    PUBLISH   rank 0 writes Megatron's table of contents; a thread of it reads back the rest and names the checkpoint

A stage starts once the ranks have learned, from the vote after a step (`llama31.training.checkpoint_saver`), that all
of them have ended the one before. Collectives are on the main thread, between steps, so they cannot meet those of
training; only the exchange of shards is not, and has a process group of its own.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest

from llama31.checkpoint.formats import nemo
from llama31.common.errors import UserError
from llama31.training.background_writer import NICENESS, BackgroundWriter, WriteFailed
from llama31.training.held_signals import held
from llama31.training.late_gather import LateGather
from llama31.training.unforked import unforked

GATHER, WRITE, PUBLISH, PUBLISHED = range(4)
# States of a stage on a rank; the highest of all ranks counts.
READY, BUSY, BROKEN = range(3)

Files = dict[str, tuple[int, str]]
"""Path within a checkpoint -> bytes, SHA-256."""


class PendingSave:
    """A save in the background. `advance` is collective.

    `publish` verifies the remaining files, which rank 0 wrote, and gives the checkpoint its name. It gets the files
    that the ranks wrote, and is called on rank 0 only, in a thread. `signals` are kept from the processes.
    """

    def __init__(
        self,
        request: AsyncRequest,
        gather: LateGather,
        path: Path,
        publish: Callable[[Files], None],
        signals: set[signal.Signals],
    ):
        self.path = path
        self._request = request
        self._publish = publish
        self._signals = signals
        self._stage = GATHER
        self._gather: LateGather | None = gather
        self._writer = BackgroundWriter(request, gather.copied)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        gather.start()

    @property
    def state(self) -> int:
        """State of the current stage on this rank."""
        if self._stage == GATHER:
            assert self._gather
            return BROKEN if self._gather.error else READY if self._gather.is_done else BUSY
        if self._stage == WRITE:
            return BROKEN if self._writer.has_failed() else READY if self._writer.is_done() else BUSY
        return BROKEN if self._error else BUSY if self._thread and self._thread.is_alive() else READY

    def advance(self, *, wait: bool = False) -> bool:
        """Start the next stage when all ranks are ready or one is broken. Return whether the save is published.

        With `wait`, wait for all stages. Raises UserError or WriteFailed on all ranks if any rank failed.
        """
        steps = {GATHER: self._start_writing, WRITE: self._start_publishing, PUBLISH: self._end}
        while True:
            steps[self._stage](wait)
            self._stage += 1
            if self._stage == PUBLISHED or not wait:
                return self._stage == PUBLISHED

    def cancel(self) -> None:
        """Stop writing. What is written stays as an incomplete checkpoint, which the next start removes."""
        self._writer.cancel()

    def _start_writing(self, wait: bool) -> None:
        assert self._gather
        error: Exception | None = None
        try:
            if wait or self._gather.is_done:
                self._gather.wait()
        except Exception as failure:  # noqa: BLE001 - raised by all ranks
            error = failure
        self._raise_any(error)
        with held(self._signals), unforked(self._gather.unread):
            self._writer.start()
        self._gather = None

    def _start_publishing(self, wait: bool) -> None:
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

    def _end(self, wait: bool) -> None:
        if self._thread and (wait or not self._thread.is_alive()):
            self._thread.join()
        self._raise_any(self._error)

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
