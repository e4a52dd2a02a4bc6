"""Save checkpoints during training: when to save, and how."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.lightning.io.pl import TrainerContext

from llama31.checkpoint import new_checkpoint, removal, store
from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.safe_unpickle import read_table
from llama31.checkpoint.new_checkpoint import Files, NewCheckpoint
from llama31.checkpoint.store import CheckpointManifest
from llama31.common import rank_messages
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.run_dir.events import Outcome, Saved
from llama31.settings import Settings
from llama31.training.background_save import BackgroundSaver

# Votes of the ranks after each step; the highest wins.
CONTINUE, SAVE, SAVE_AND_END = range(3)
# Texts in an exception that mean that the disk is the reason: Megatron passes on only the messages of its writers.
WRITE_ERRORS = {
    **{os.strerror(n): os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)},
    "unexpected pos": f"{os.strerror(errno.ENOSPC)}, or no quota",  # torch's message for a short write
}


class Saver:
    """Save the checkpoints of a job. After each step `is_due` is called, then `completed`, then `save` if one is due.

    All are collective. The arguments other than `run_dir`, which has the MLPerf log and the metrics, are for
    `CheckpointManifest`. The default of `run` is the name of `run_dir`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        job: int,
        identity: dict[str, Any],
        departures: Sequence[str],
        run_dir: Path,
        run: str = "",
    ):
        self.settings = settings
        self.job = job
        self.identity = identity
        self.departures = list(departures)
        self.run_dir = run_dir
        self.run = run or run_dir.name
        self.root = Path(settings.continual_ckpt)
        self.is_ending = False
        """Whether all ranks agreed to end the job after this step, on request."""
        self._end_requested = False
        # torchrun sends SIGTERM to the remaining ranks when one has failed; Slurm sends it at the time limit.
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        self._signals = {signal.SIGUSR1} if under_torchrun else {signal.SIGUSR1, signal.SIGTERM}
        self._saved_at = time.monotonic()
        self._background = BackgroundSaver() if settings.save_async else None

    def listen(self) -> None:
        """Make SIGUSR1, and without torchrun also SIGTERM, request a save and the end of the job.

        Lightning installs its own handler of SIGTERM when it starts, so this is called before and after.
        """
        for signum in self._signals:
            signal.signal(signum, self.request_end)

    def request_end(self, *_: Any) -> None:
        """Request a save and the end of the job after the current step. A signal handler."""
        self._end_requested = True

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Return whether to save after this step; the same on all ranks."""
        vote = CONTINUE
        minutes = self.settings.save_every_minutes
        if minutes and torch.distributed.get_rank() == 0 and time.monotonic() - self._saved_at >= 60 * minutes:
            vote = SAVE
        if self._end_requested:
            vote = SAVE_AND_END
        agreed = torch.tensor(vote, device=torch.cuda.current_device())
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        self.is_ending = agreed.item() == SAVE_AND_END
        every = self.settings.save_every
        return is_last or agreed.item() > CONTINUE or bool(every and step % every == 0)

    def completed(self, *, wait: bool) -> Saved | None:
        """Return what was saved in the background, if that has been completed since the last call.

        With `wait`, wait for it. Raises UserError if it cannot be written.
        """
        if self._background is None or self._background.path is None:
            return None
        with _named_failures(self._background.path):
            saved = self._background.completed(wait=wait)
        if saved:
            self._saved_at = time.monotonic()
        return saved

    def save(self, trainer: Trainer, step: int, consumed_samples: int, outcome: Outcome | None) -> Saved | None:
        """Save the state after `step`, and `outcome` if the run has ended. Return what was saved.

        The checkpoint gets its name once all of it is on disk and has been read back; until then the previous one is
        the newest. With SAVE_ASYNC this happens later, and `completed` returns what was saved. Raises UserError if it
        cannot be written.
        """
        began = self._saved_at = time.monotonic()
        path = self.root / store.name(int(self.settings.seeds), self.job, step)
        manifest = CheckpointManifest(
            seed=int(self.settings.seeds),
            job=self.job,
            step=step,
            consumed_samples=consumed_samples,
            identity=self.identity,
            departures=self.departures,
            outcome=asdict(outcome) if outcome else None,
            files={},
            run=self.run,
        )
        new = NewCheckpoint(path, manifest, self.settings.keep_last)
        with _named_failures(path):
            if torch.distributed.get_rank() == 0:
                if os.path.lexists(new.partial):
                    print(removal.clear(new.partial), flush=True)
                new.partial.mkdir(parents=True)
                self._write_records(trainer, new.partial)
            torch.distributed.barrier()
            if self._background:
                self._background.start(trainer, new, began)
                return None
            with _held(self._signals):
                trainer.save_checkpoint(new.partial)
            torch.distributed.barrier()
            files, stay = _read_back(new.partial), []
            if torch.distributed.get_rank() == 0:
                stay = new_checkpoint.publish(new, files)
            torch.distributed.barrier()
        self._saved_at = time.monotonic()
        seconds = self._saved_at - began
        return Saved(step, consumed_samples, str(path), new_checkpoint.total(files), seconds, stay, blocked=seconds)

    def cancel(self) -> None:
        """Stop a save in the background, since the run has failed: its ranks cannot agree on a checkpoint any more."""
        if self._background and self._background.path:
            self._background.cancel()
            print(f"{self._background.path}: the run failed, so this checkpoint is not completed", flush=True)

    def _write_records(self, trainer: Trainer, partial: Path) -> None:
        """Write what NeMo builds a model from, the MLPerf log and the metrics, as they are now, into a checkpoint."""
        context = TrainerContext.from_trainer(trainer)
        context.__io__ = deepcopy(context.__io__)  # NeMo writes a path into it, and the run's tokenizer shares it
        context.io_dump(partial / nemo.CONTEXT, yaml_attrs=["model"])
        for name in (paths.MLPERF_LOG, paths.METRICS):
            shutil.copyfile(self.run_dir / name, partial / name)


@contextmanager
def _held(signals: set[signal.Signals]) -> Iterator[None]:
    """Block signals within this context, and permanently in processes started within it.

    Slurm signals all processes of a rank, and Megatron's checkpoint writers must survive that.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    resource_tracker.ensure_running()  # its first call starts a process and unblocks SIGTERM
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _read_back(partial: Path) -> Files:
    """Return bytes and SHA-256 of all files of a new checkpoint, each read back by one rank; collective."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    blobs: dict[str, list[tuple[int, int]]] = {}
    for info in read_table(partial / nemo.WEIGHTS).storage_data.values():
        blobs.setdefault(f"{nemo.WEIGHTS}/{info.relative_path}", []).append((info.offset, info.length))
    # One rank lists them: other nodes may see new files with a delay.
    listed = rank_messages.broadcast(new_checkpoint.names(partial) if rank == 0 else None)
    found = new_checkpoint.read_back(partial, listed[rank::world], blobs)
    return {name: (size, digest) for files in rank_messages.all_gather(found) for name, (size, digest) in files.items()}


@contextmanager
def _named_failures(path: Path) -> Iterator[None]:
    """Turn a full disk and similar errors into a UserError that names the checkpoint; Megatron wraps those errors."""
    try:
        yield
    except BaseException as error:  # torch's CheckpointException is one
        for sign, reason in WRITE_ERRORS.items():
            if sign in str(error):
                raise UserError(f"{path}: cannot be saved: {reason}") from error
        raise
