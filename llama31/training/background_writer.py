"""Write one rank's part of a checkpoint, and read it back, in a process of its own while training continues.

Megatron's asynchronous save (`AsyncRequest`) separates three things: copying the state to host memory, writing it, and
collecting what the ranks wrote. As in Megatron's own queue, the second is done by a forked process, which sees host
memory as it was at the fork. Unlike there, it also reads back what it wrote, its errors reach the rank, and it yields
the processor to training.
"""

import contextlib
import gc
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from torch import multiprocessing

from llama31.checkpoint import read_back
from llama31.common.errors import UserError
from llama31.common.files import sync

NICENESS = 10
"""Of background work: about a tenth of a core that training wants too, and all of one that is idle."""


@dataclass(frozen=True)
class Written:
    """What one rank has written and read back."""

    results: Any
    """Megatron's: a list of torch's WriteResult for each of its writers."""
    files: dict[str, tuple[int, str]]
    """Name in the weights' directory -> bytes, SHA-256 of what the disk holds."""


class WriteFailed(Exception):
    """A rank could not write its part; the message is that of its exception."""


class BackgroundWriter:
    """The process that writes this rank's part of a checkpoint; none if the rank has nothing to write.

    The state of the request is copied to host memory now, and read by the process from `start` on. `copied` copies a
    tensor that is in host memory, if training changes it.
    """

    def __init__(self, request: AsyncRequest, copied: Callable[[torch.Tensor], torch.Tensor]):
        self._written: Written | None = None
        self._failure: Exception | None = None
        self._process: Any = None
        if request.async_fn is None:
            self._written = Written({}, {})
            return
        arguments = list(request.async_fn_args)
        if request.preload_fn:
            arguments[1] = request.preload_fn()
        torch.cuda.synchronize()
        arguments[1] = [
            (path, name, (others, [(item, copied(tensor)) for item, tensor in tensors]))
            for path, name, (others, tensors) in arguments[1]
        ]
        # Page-locked host memory is not copied at a fork, so it must not be reused until the process has ended.
        self._buckets = arguments[1]
        self._results = arguments[2]
        self._write, self._arguments, self._others = request.async_fn, arguments[:2], request.async_fn_kwargs

    def start(self) -> None:
        """Start the process."""
        if self._written is not None:
            return
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_write, args=(theirs, self._write, self._arguments, self._others))
        collects = gc.isenabled()
        gc.disable()  # in the new process, too: it must not free CUDA tensors
        try:
            self._process.start()
        finally:
            if collects:
                gc.enable()
        theirs.close()

    def is_done(self) -> bool:
        """Return whether the process has written everything, or has failed."""
        return bool(self._written or self._failure or self._connection.poll())

    def has_failed(self) -> bool:
        """Return whether the process has failed."""
        try:
            return self.is_done() and not self.wait()
        except (WriteFailed, UserError):
            return True

    def wait(self) -> Written:
        """Wait until everything is written and read back. Raises WriteFailed or UserError."""
        if self._failure:
            raise self._failure
        if self._written is None:
            try:
                found = self._connection.recv()
            except EOFError:
                self._process.join()
                found = WriteFailed(f"the process that writes the checkpoint ended: {_end(self._process.exitcode)}")
            self._process.join()
            self._buckets = self._arguments = []
            if isinstance(found, Exception):
                self._failure = found
                raise found
            self._written = found
            self._results.put(found.results)  # Megatron collects them from here
        return self._written

    def cancel(self) -> None:
        """Kill the process and the writers that it has started, which end with it."""
        if self._process is not None and self._written is None:
            self._process.kill()
            self._process.join()


def _end(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


class _Results:
    """What Megatron's writers put their results into, in place of the queue to the rank."""

    found: Any = None

    def put(self, found: Any) -> None:
        self.found = found


def _write(connection: Connection, write: Any, arguments: list[Any], others: dict[str, Any]) -> None:
    """Write, read back and send the result, or why it failed. The main program of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the rank decides what becomes of it
    os.nice(NICENESS)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    try:
        results = _Results()
        write(*arguments, results, **others)
        if isinstance(results.found, Exception):
            raise results.found
        connection.send(Written(results.found, _read_back(arguments[1], results.found)))
    except Exception as error:  # noqa: BLE001 - the rank raises it
        with contextlib.suppress(OSError):
            connection.send(error if isinstance(error, UserError) else WriteFailed(str(error) or repr(error)))
    connection.close()
    os._exit(0)  # nothing of the rank's, such as its logs, is closed here


def _read_back(buckets: Any, results: dict[int, Any]) -> dict[str, tuple[int, str]]:
    """Return bytes and SHA-256 of the files that the writers wrote, as the disk returns them."""
    blobs: dict[str, list[tuple[int, int]]] = {}
    for written in results.values():
        for result in written:
            stored = result.storage_data
            blobs.setdefault(stored.relative_path, []).append((stored.offset, stored.length))

    def verified(bucket: Any) -> tuple[str, tuple[int, str]]:
        path, name, _ = bucket
        sync(Path(path))
        return name, read_back.size_and_sha256(Path(path), blobs.get(name, ()))

    with ThreadPoolExecutor(len(buckets)) as threads:
        return dict(threads.map(verified, buckets))
