"""Saving checkpoints while a run trains: when, how, and that each is whole before it counts."""

import errno
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from io import BytesIO
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.lightning.io.pl import TrainerContext

from llama31.checkpoint import removal, store
from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.safe_unpickle import read_table
from llama31.checkpoint.store import CheckpointManifest
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, publish
from llama31.config import paths
from llama31.run_dir.events import Outcome, Saved
from llama31.settings import Settings

# What the ranks agree on after a step; the highest of their wishes holds.
GO_ON, SAVE, SAVE_AND_END = range(3)
# What tells in an exception that the disk is the reason: Megatron hands on its writers' words alone.
WRITE_ERRORS = {
    **{os.strerror(n): os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)},
    "unexpected pos": f"{os.strerror(errno.ENOSPC)}, or no quota",  # torch, of a write that was cut short
}


class Saver:
    """Saves the checkpoints of a job. `is_due` and `save` are collective.

    Args:
        settings: Checked settings, with SAVE_CKPT.
        job: Number of this job in the chain.
        identity: What the run is; see `llama31.checkpoint.identity`.
        departures: Departures from the closed division's rules so far.
        run_dir: Directory of the MLPerf log and the metrics.
        run: Name of the run, which its later jobs keep. Default: that of `run_dir`.
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
        """All ranks agreed to end the job after this step, for it was told to."""
        self._end_requested = False
        # torchrun sends SIGTERM to the ranks that are left when one has failed; Slurm does when time runs out.
        under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        self._signals = {signal.SIGUSR1} if under_torchrun else {signal.SIGUSR1, signal.SIGTERM}
        self._saved_at = time.monotonic()

    def listen(self) -> None:
        """From now on SIGUSR1, and SIGTERM where torchrun is not there, ask for a save and the end of the job.

        Lightning takes SIGTERM for itself when it starts, so this is called before and after.
        """
        for signum in self._signals:
            signal.signal(signum, self.request_end)

    def request_end(self, *_: Any) -> None:
        """Asks for a save and the end of the job after the step under way; a signal's handler."""
        self._end_requested = True

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Whether to save after this step; the same on all ranks."""
        wish = GO_ON
        minutes = self.settings.save_every_minutes
        if minutes and torch.distributed.get_rank() == 0 and time.monotonic() - self._saved_at >= 60 * minutes:
            wish = SAVE
        if self._end_requested:
            wish = SAVE_AND_END
        agreed = torch.tensor(wish, device=torch.cuda.current_device())
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        self.is_ending = agreed.item() == SAVE_AND_END
        every = self.settings.save_every
        return is_last or agreed.item() > GO_ON or bool(every and step % every == 0)

    def save(self, trainer: Trainer, step: int, consumed_samples: int, outcome: Outcome | None) -> Saved:
        """Saves what the run is after `step`; `outcome` says how it ended, if it did.

        The checkpoint gets its name when all of it is on disk and was read back; until then the former one is the
        newest. Raises UserError where it cannot be written.
        """
        began = time.monotonic()
        stay: list[str] = []
        path = self.root / store.name(int(self.settings.seeds), self.job, step)
        partial = path.with_name(path.name + PARTIAL)
        first = torch.distributed.get_rank() == 0
        with _failures_told(path):
            if first:
                if os.path.lexists(partial):
                    print(removal.clear(partial), flush=True)
                partial.mkdir(parents=True)
            torch.distributed.barrier()
            with _held(self._signals):
                trainer.save_checkpoint(partial)
            if first:
                _write_context(TrainerContext.from_trainer(trainer), partial / nemo.CONTEXT)
                for name in (paths.MLPERF_LOG, paths.METRICS):
                    shutil.copyfile(self.run_dir / name, partial / name)
            torch.distributed.barrier()
            files = _read_back(partial)
            if first:
                manifest = CheckpointManifest(
                    seed=int(self.settings.seeds),
                    job=self.job,
                    step=step,
                    consumed_samples=consumed_samples,
                    identity=self.identity,
                    departures=self.departures,
                    outcome=asdict(outcome) if outcome else None,
                    files=files,
                    run=self.run,
                )
                store.write_manifest(partial, manifest)
                publish(partial, path)
                stay = removal.prune(self.root, manifest.seed, self.settings.keep_last, path)
            torch.distributed.barrier()
        self._saved_at = time.monotonic()
        size = sum(bytes_ for bytes_, _ in files.values())
        return Saved(step, consumed_samples, str(path), size, self._saved_at - began, stay)


def _write_context(context: TrainerContext, directory: Path) -> None:
    """Writes NeMo's record of the trainer and the model, and the run's tokenizer, into a new directory."""
    context.__io__ = deepcopy(context.__io__)  # where NeMo notes the copy's place; the run's own tokenizer shares it
    context.io_dump(directory, yaml_attrs=["model"])


@contextmanager
def _held(signals: set[signal.Signals]) -> Iterator[None]:
    """Holds signals back within this context, for ever in processes that start within it.

    Slurm's signals reach all processes of a rank, and Megatron's writers of checkpoints must outlive them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    resource_tracker.ensure_running()  # starts a process, the first time, and then lets SIGTERM through again
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


def _read_back(partial: Path) -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of all files of a checkpoint that was just written, each read by one rank; collective.

    torch keeps a CRC-32 of each tensor, made from memory when it wrote it; what the disk gives back is held against it.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    stored: dict[str, list[Any]] = {}
    for info in read_table(partial / nemo.WEIGHTS).storage_data.values():
        stored.setdefault(info.relative_path, []).append(info)
    # One rank lists them: other nodes may see the directory a moment later.
    listed = [[str(file.relative_to(partial)) for file in store.files_of(partial)] if rank == 0 else None]
    torch.distributed.broadcast_object_list(listed)
    found = {}
    for name in (listed[0] or [])[rank::world]:
        file = partial / name
        _to_disk(file)
        found[name] = store.digest(file)
        for info in stored.get(file.name, ()) if file.parent.name == nemo.WEIGHTS else ():
            _check_blob(file, info.offset, info.length)
    ranks: list[Any] = [None] * world
    torch.distributed.all_gather_object(ranks, found)
    if rank == 0:
        for directory in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            _to_disk(directory)
    return {name: entry for files in ranks for name, entry in files.items()}


def _to_disk(path: Path) -> None:
    """Has the system write a file, or a directory's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_blob(file: Path, offset: int, length: int) -> None:
    """Raises UserError if a tensor or object in a file is not what torch wrote: a zip file of its own."""
    with open(file, "rb") as source:
        source.seek(offset)
        blob = source.read(length)
    try:
        wrong = zipfile.ZipFile(BytesIO(blob)).testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        wrong = str(error)
    if wrong:
        raise UserError(f"{file}: what the disk gives back is not what was written to it: {wrong}, from byte {offset}")


@contextmanager
def _failures_told(path: Path) -> Iterator[None]:
    """A full disk and its like as a line that names the checkpoint; Megatron wraps what its writers raise."""
    try:
        yield
    except BaseException as error:  # torch's CheckpointException is one
        for sign, reason in WRITE_ERRORS.items():
            if sign in str(error):
                raise UserError(f"{path}: cannot be saved: {reason}") from error
        raise
