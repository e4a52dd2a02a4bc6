"""Save checkpoints during training: when to save, how, and verification before a checkpoint gets its name."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.lightning.io.pl import TrainerContext

from llama31.checkpoint import read_back, removal, store
from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.safe_unpickle import read_table
from llama31.checkpoint.store import CheckpointManifest
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, publish, sync, sync_tree
from llama31.config import paths
from llama31.run_dir.events import Outcome, Saved
from llama31.settings import Settings
from llama31.training import pending_save
from llama31.training.async_request import async_request
from llama31.training.held_signals import held
from llama31.training.late_gather import LateGather
from llama31.training.pending_save import BUSY, Files, PendingSave

# Votes of the ranks after each step; the highest wins.
CONTINUE, SAVE, SAVE_AND_END = range(3)
# Texts in an exception that mean that the disk is the reason: Megatron passes on only the messages of its writers.
WRITE_ERRORS = {
    **{os.strerror(n): os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)},
    "unexpected pos": f"{os.strerror(errno.ENOSPC)}, or no quota",  # torch's message for a short write
}


class Saver:
    """Save the checkpoints of a job. `is_due`, `completed` and `save` are collective, and are called in this order.

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
        self._pending: PendingSave | None = None
        self._pending_state = pending_save.READY  # the highest of all ranks
        self._saved = Saved(0, 0, "", 0, 0)  # the pending or last one, as far as it is known

    def listen(self) -> None:
        """Make SIGUSR1, and without torchrun also SIGTERM, request a save and the end of the job.

        Lightning installs its own handler of SIGTERM when it starts, so this is called before and after.
        """
        for signum in self._signals:
            signal.signal(signum, self.request_end)

    def request_end(self, *_: Any) -> None:
        """Request a save and the end of the job after the current step. A signal handler."""
        self._end_requested = True

    @property
    def is_saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._pending is not None

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Return whether to save after this step; the same on all ranks."""
        vote = CONTINUE
        minutes = self.settings.save_every_minutes
        if (
            minutes
            and not self.is_saving
            and torch.distributed.get_rank() == 0
            and time.monotonic() - self._saved_at >= 60 * minutes
        ):
            vote = SAVE
        if self._end_requested:
            vote = SAVE_AND_END
        state = self._pending.state if self._pending else pending_save.READY
        agreed = torch.tensor([vote, state], device=torch.cuda.current_device())
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        vote, self._pending_state = agreed.tolist()
        self.is_ending = vote == SAVE_AND_END
        every = self.settings.save_every
        return is_last or vote > CONTINUE or bool(every and step % every == 0)

    def completed(self, *, wait: bool) -> Saved | None:
        """Return the save in the background if it has been completed since the last call; with `wait`, wait for it.

        Raises UserError on all ranks if it cannot be written.
        """
        if self._pending is None or (self._pending_state == BUSY and not wait):
            return None
        began = time.monotonic()
        with _named_failures(self._pending.path):
            is_published = self._pending.advance(wait=wait)
        now = time.monotonic()
        self._saved = replace(self._saved, blocked=(self._saved.blocked or 0) + now - began)
        if not is_published:
            return None
        self._pending = None
        seconds, self._saved_at = now - self._saved_at, now
        return replace(self._saved, seconds=seconds)

    def save(
        self, trainer: Trainer, step: int, consumed_samples: int, outcome: Outcome | None, *, is_last: bool = True
    ) -> Saved | None:
        """Save the state after `step`, and `outcome` if the run has ended. Return what was saved.

        The checkpoint gets its name once all of it is on disk and has been read back; until then the previous one is
        the newest. With SAVE_ASYNC this happens in the background, unless the save `is_last` or the job ends: the
        result is then None, and a later call of `completed` returns what was saved. Raises UserError if it cannot be
        written.
        """
        assert self._pending is None, "one save at a time"
        began = self._saved_at = time.monotonic()
        path = self.root / store.name(int(self.settings.seeds), self.job, step)
        partial = path.with_name(path.name + PARTIAL)
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
        self._saved = Saved(step, consumed_samples, str(path), 0, 0)
        with _named_failures(path):
            if torch.distributed.get_rank() == 0:
                if os.path.lexists(partial):
                    print(removal.clear(partial), flush=True)
                partial.mkdir(parents=True)
            torch.distributed.barrier()
            with held(self._signals):
                if self.settings.save_async:
                    self._start(trainer, partial, path, manifest)
                else:
                    trainer.save_checkpoint(partial)
        if self.settings.save_async:
            self._saved = replace(self._saved, blocked=time.monotonic() - began)
            return self.completed(wait=True) if is_last or self.is_ending else None
        with _named_failures(path):
            if torch.distributed.get_rank() == 0:
                self._copy_records(partial)
                _write_context(trainer, partial)
            torch.distributed.barrier()
            files = _read_back(partial)
            if torch.distributed.get_rank() == 0:
                self._publish(partial, path, manifest, files)
            torch.distributed.barrier()
        self._saved_at = time.monotonic()
        return replace(self._saved, seconds=self._saved_at - began, blocked=self._saved_at - began)

    def cancel(self) -> None:
        """Stop a save in the background, since the run has failed: its ranks cannot agree on a checkpoint any more."""
        if self._pending:
            self._pending.cancel()
            print(f"{self._pending.path}: not saved, for the run failed", flush=True)

    def _start(self, trainer: Trainer, partial: Path, path: Path, manifest: CheckpointManifest) -> None:
        """Copy the state and start to save it in the background."""
        gather = LateGather()
        with gather.used():
            request = async_request(trainer, partial)
        if torch.distributed.get_rank() == 0:
            self._copy_records(partial)

        def end(files: Files) -> None:
            _write_context(trainer, partial)
            rest = [name for name in _names(partial) if name not in files]
            self._publish(partial, path, manifest, {**files, **_verified(partial, rest, {})})

        self._pending = PendingSave(request, gather, path, end, self._signals)

    def _copy_records(self, partial: Path) -> None:
        """Copy the MLPerf log and the metrics, as they are now, into a checkpoint."""
        for name in (paths.MLPERF_LOG, paths.METRICS):
            shutil.copyfile(self.run_dir / name, partial / name)

    def _publish(self, partial: Path, path: Path, manifest: CheckpointManifest, files: Files) -> None:
        """Give a verified checkpoint its manifest and its name, and remove older ones. Of rank 0."""
        sync_tree(partial, directories_only=True)
        store.write_manifest(partial, replace(manifest, files=files))
        publish(partial, path)
        stay = removal.prune(self.root, manifest.seed, self.settings.keep_last, path)
        self._saved = replace(self._saved, bytes=sum(size for size, _ in files.values()), stay=stay)


def _write_context(trainer: Trainer, partial: Path) -> None:
    """Write what NeMo builds a model from, which does not change during training."""
    context = TrainerContext.from_trainer(trainer)
    context.__io__ = deepcopy(context.__io__)  # NeMo writes a path into it, and the run's tokenizer shares it
    context.io_dump(partial / nemo.CONTEXT, yaml_attrs=["model"])


def _read_back(partial: Path) -> Files:
    """Return bytes and SHA-256 of all files of a new checkpoint, each read back by one rank; collective."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    blobs: dict[str, list[tuple[int, int]]] = {}
    for info in read_table(partial / nemo.WEIGHTS).storage_data.values():
        blobs.setdefault(f"{nemo.WEIGHTS}/{info.relative_path}", []).append((info.offset, info.length))
    # One rank lists them: other nodes may see new files with a delay.
    listed = [_names(partial) if rank == 0 else None]
    torch.distributed.broadcast_object_list(listed)
    found = _verified(partial, (listed[0] or [])[rank::world], blobs)
    ranks: list[Any] = [None] * world
    torch.distributed.all_gather_object(ranks, found)
    return {name: entry for files in ranks for name, entry in files.items()}


def _names(partial: Path) -> list[str]:
    return [str(file.relative_to(partial)) for file in store.files_of(partial)]


def _verified(partial: Path, names: Sequence[str], blobs: Mapping[str, list[tuple[int, int]]]) -> Files:
    """Flush files to disk and read them back. Return their bytes and SHA-256."""
    found = {}
    for name in names:
        sync(partial / name)
        found[name] = read_back.size_and_sha256(partial / name, blobs.get(name, ()))
    return found


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
