"""Save checkpoints during training: when to save, how, and verification before a checkpoint gets its name."""

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
from llama31.common.files import PARTIAL, publish, size_and_sha256, sync, sync_tree
from llama31.config import paths
from llama31.run_dir.events import Outcome, Saved
from llama31.settings import Settings

# Votes of the ranks after each step; the highest wins.
CONTINUE, SAVE, SAVE_AND_END = range(3)
# Texts in an exception that mean that the disk is the reason: Megatron passes on only the messages of its writers.
WRITE_ERRORS = {
    **{os.strerror(n): os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)},
    "unexpected pos": f"{os.strerror(errno.ENOSPC)}, or no quota",  # torch's message for a short write
}


class Saver:
    """Save the checkpoints of a job. `is_due` and `save` are collective.

    The arguments other than `run_dir`, which has the MLPerf log and the metrics, are for `CheckpointManifest`. The
    default of `run` is the name of `run_dir`.
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

    def save(self, trainer: Trainer, step: int, consumed_samples: int, outcome: Outcome | None) -> Saved:
        """Save the state after `step`, and `outcome` if the run has ended. Return what was saved.

        The checkpoint gets its name once all of it is on disk and has been read back; until then the previous one is
        the newest. Raises UserError if it cannot be written.
        """
        began = time.monotonic()
        stay: list[str] = []
        path = self.root / store.name(int(self.settings.seeds), self.job, step)
        partial = path.with_name(path.name + PARTIAL)
        first = torch.distributed.get_rank() == 0
        with _named_failures(path):
            if first:
                if os.path.lexists(partial):
                    print(removal.clear(partial), flush=True)
                partial.mkdir(parents=True)
            torch.distributed.barrier()
            with _held(self._signals):
                trainer.save_checkpoint(partial)
            if first:
                context = TrainerContext.from_trainer(trainer)
                context.__io__ = deepcopy(
                    context.__io__
                )  # NeMo writes a path into it, and the run's tokenizer shares it
                context.io_dump(partial / nemo.CONTEXT, yaml_attrs=["model"])
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


def _read_back(partial: Path) -> dict[str, tuple[int, str]]:
    """Return bytes and SHA-256 of all files of a new checkpoint, each read back by one rank; collective.

    torch stores a CRC-32 of each tensor, computed from memory. The bytes that the disk returns are checked against it.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    stored: dict[str, list[Any]] = {}
    for info in read_table(partial / nemo.WEIGHTS).storage_data.values():
        stored.setdefault(info.relative_path, []).append(info)
    # One rank lists them: other nodes may see new files with a delay.
    listed = [[str(file.relative_to(partial)) for file in store.files_of(partial)] if rank == 0 else None]
    torch.distributed.broadcast_object_list(listed)
    found = {}
    for name in (listed[0] or [])[rank::world]:
        file = partial / name
        sync(file)
        found[name] = size_and_sha256(file, from_disk=True)
        for info in stored.get(file.name, ()) if file.parent.name == nemo.WEIGHTS else ():
            _check_blob(file, info.offset, info.length)
    ranks: list[Any] = [None] * world
    torch.distributed.all_gather_object(ranks, found)
    if rank == 0:
        sync_tree(partial, directories_only=True)
    return {name: entry for files in ranks for name, entry in files.items()}


def _check_blob(file: Path, offset: int, length: int) -> None:
    """Raise UserError if a tensor or object in a file, a zip archive of its own, fails its CRC-32."""
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
def _named_failures(path: Path) -> Iterator[None]:
    """Turn a full disk and similar errors into a UserError that names the checkpoint; Megatron wraps those errors."""
    try:
        yield
    except BaseException as error:  # torch's CheckpointException is one
        for sign, reason in WRITE_ERRORS.items():
            if sign in str(error):
                raise UserError(f"{path}: cannot be saved: {reason}") from error
        raise
