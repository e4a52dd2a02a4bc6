"""The process beside a rank that writes its part of each checkpoint in the background.

It is forked once, before the rank has a model or uses a GPU, and gets the state through shared memory. (Megatron's own
asynchronous save forks the training process at each save. Each page of host memory that training then writes is copied,
which slows the steps of CPU ranks.) Those of all ranks have a process group of their own, so their collectives
cannot meet training's. Each of them:

    exchanges shards of the optimizer state, writes its files, flushes them, and reads them back;

and the one of rank 0 then writes the table of contents, reads back the rest, and gives the checkpoint its name. It ends
with its rank, and with a failed save.
"""

import os
import queue
import signal
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.storage import WriteResult

from llama31.checkpoint import new_checkpoint
from llama31.checkpoint.formats import nemo
from llama31.checkpoint.new_checkpoint import Files, NewCheckpoint
from llama31.common import child_processes, rank_messages
from llama31.common.errors import UserError
from llama31.common.shared_memory import SharedMemory
from llama31.training.state_copy import Bucket, StateCopy

NICENESS = 10
"""About a tenth of a core that training wants too, and all of one that is idle."""
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
MESSAGE = 64 << 20  # numbers exchanged at a time, 256 MB


@dataclass(frozen=True)
class SaveJob:
    """A checkpoint to write, as one rank's process gets it."""

    checkpoint: NewCheckpoint
    state: StateCopy
    address: tuple[str, int]
    """Host and port of the store where the ranks meet."""


@dataclass(frozen=True)
class Completed:
    """A checkpoint that is complete."""

    bytes: int
    stay: list[str]
    """A line for each older checkpoint that could not be removed."""


# Kinds of failures: a text for the user, an ended process, anything else, such as a connection to an ended process.
# Of several, the lowest says most.
FOR_THE_USER, ENDED, OTHER = range(3)


@dataclass(frozen=True)
class Failure:
    """Why a save failed."""

    kind: int
    text: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return it for an exception."""
        return cls(FOR_THE_USER if isinstance(error, UserError) else OTHER, str(error) or repr(error))


class SaveProcess:
    """The process of this rank, to be made while the rank is small. One job at a time."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.memory = SharedMemory()
        """For the state of the next job."""
        self._connection, theirs = Pipe()
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # Slurm signals all processes of a rank
        try:
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    self._connection.close()
                    _serve(theirs, self.memory, parent, rank, world_size)
                finally:
                    os._exit(1)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        theirs.close()

    def start(self, job: SaveJob) -> None:
        """Start a job. Raises OSError if the process has ended."""
        self._connection.send(job)

    def result(self, patience: float) -> Completed | Failure | None:
        """Return the result of the job, or None if it has not ended after `patience` seconds."""
        if not self._connection.poll(patience):
            return None
        try:
            found: Completed | Failure = self._connection.recv()
            return found
        except (EOFError, ConnectionError):
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            code = os.waitstatus_to_exitcode(status)
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Failure(ENDED, f"the process that writes the checkpoint ended: {why}")

    def cancel(self) -> None:
        """End the process. What it has written stays as an incomplete checkpoint, which the next start removes."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _serve(connection: Connection, memory: SharedMemory, parent: int, rank: int, world_size: int) -> None:
    """Execute jobs until one fails."""
    child_processes.end_with(parent)
    os.nice(NICENESS)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    result: Completed | Failure | None = None
    while not isinstance(result, Failure):
        job = connection.recv()
        memory.resize(job.state.size)
        try:
            if not torch.distributed.is_initialized():
                _join(job.address, rank, world_size)
            result = _save(job, memory)
        except Exception as error:  # noqa: BLE001 - the rank raises it
            traceback.print_exc()
            result = Failure.of(error)
        connection.send(result)


def _join(address: tuple[str, int], rank: int, world_size: int) -> None:
    """Make the process group of the ranks' processes."""
    if world_size == 1:
        store: Any = torch.distributed.HashStore()
    else:
        ranks_store = torch.distributed.TCPStore(*address, is_master=False)
        store = torch.distributed.PrefixStore("llama31 save processes", ranks_store)
    # An ended process is noticed at once. Others wait for the slowest, which may write for hours.
    patience = timedelta(days=7)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=patience)


def _save(job: SaveJob, memory: SharedMemory) -> Completed | Failure:
    """Write a checkpoint, together with the other ranks' processes; all return the same."""
    try:
        _exchange(job.state, memory)
        results, files = _write(job, memory)
        mine: Any = {"results": [_as_json(result) for result in results], "files": files}
    except Exception as error:  # noqa: BLE001 - the others learn of it
        traceback.print_exc()
        mine = {"failure": asdict(Failure.of(error))}
    parts = rank_messages.gather(mine)
    published = asdict(_publish(job, parts)) if parts else None
    found = rank_messages.broadcast(published)
    return Failure(**found) if "kind" in found else Completed(**found)


def _as_json(result: WriteResult) -> list[Any]:
    """Return what `_from_json` makes the same result of."""
    index, stored = result.index, result.storage_data
    return [
        index.fqn,
        index.offset,
        index.index,
        result.size_in_bytes,
        [getattr(stored, field.name) for field in fields(stored)],
    ]


def _from_json(value: list[Any]) -> WriteResult:
    name, offset, index, size, stored = value
    return WriteResult(MetadataIndex(name, offset, index), size, _StorageInfo(*stored))


def _exchange(state: StateCopy, memory: SharedMemory) -> None:
    """Send this rank's shards of the optimizer state, or receive those of the others."""
    for move in state.moves:
        for piece in move.stored.within(memory).split(MESSAGE):
            if move.is_sent:
                torch.distributed.send(piece, move.peer)
            else:
                torch.distributed.recv(piece, move.peer)


def _write(job: SaveJob, memory: SharedMemory) -> tuple[list[WriteResult], Files]:
    """Write this rank's files, and read them back. Return torch's results (`WriteResult`) and the files."""

    def write(bucket: Bucket) -> tuple[list[WriteResult], Files]:
        tensors = [(item, stored.within(memory)) for item, stored in bucket.tensors]
        output: queue.SimpleQueue = queue.SimpleQueue()
        count: queue.Queue = queue.Queue()
        count.put(0)
        contents = (bucket.path, bucket.name, (bucket.objects, tensors))
        FileSystemWriterAsync.write_preloaded_data(job.state.transforms, 0, contents, output, count, use_fsync=True)
        _, results = output.get()
        if isinstance(results, Exception):
            raise results
        name = f"{nemo.WEIGHTS}/{bucket.name}"
        blobs = {name: [(result.storage_data.offset, result.storage_data.length) for result in results]}
        return results, new_checkpoint.read_back(job.checkpoint.partial, [name], blobs)

    if not job.state.buckets:
        return [], {}
    with ThreadPoolExecutor(len(job.state.buckets)) as threads:
        parts = list(threads.map(write, job.state.buckets))
    files = {name: entry for _, written in parts for name, entry in written.items()}
    return [result for results, _ in parts for result in results], files


def _publish(job: SaveJob, parts: list[Any]) -> Completed | Failure:
    """Complete the checkpoint from what the ranks wrote, or return why this fails. Of rank 0."""
    if failures := [Failure(**part["failure"]) for part in parts if "failure" in part]:
        return min(failures, key=lambda failure: failure.kind)
    try:
        new = job.checkpoint
        results = [list(map(_from_json, part["results"])) for part in parts]
        FileSystemWriter(new.partial / nemo.WEIGHTS).finish(job.state.metadata, results)
        files = {name: (size, digest) for part in parts for name, (size, digest) in part["files"].items()}
        rest = [name for name in new_checkpoint.names(new.partial) if name not in files]
        files |= new_checkpoint.read_back(new.partial, rest)
        stay = new_checkpoint.publish(new, files)
        return Completed(new_checkpoint.total(files), stay)
    except Exception as error:  # noqa: BLE001 - all ranks learn of it
        traceback.print_exc()
        return Failure.of(error)
