"""Compute the logits of a conversion's source in a second process, while this one writes the result.

The two halves of a conversion import different libraries and each keeps about one core busy, so that together they use
two. The second process only reads the source. It ends with the first one, however that ends.
"""

import ctypes
import io
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from math import prod
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from llama31.checkpoint.convert import logits_parity
from llama31.checkpoint.formats.hugging_face import HuggingFaceCheckpoint
from llama31.checkpoint.formats.nemo import NemoCheckpoint
from llama31.common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Source = HuggingFaceCheckpoint | NemoCheckpoint

PR_SET_PDEATHSIG = 1  # of prctl(2)
POLL_SECONDS = 0.2
COUNTER = 64  # bytes before the logits in the shared memory, of which 8 count what was read


class SourceLogits:
    """A context manager that starts the second process, and kills it at its end unless it is done.

    The process is forked, and shares the memory for the result. A fork hangs if torch has started threads, so if torch
    is imported already, there is no second process: `result` computes the logits.
    """

    def __init__(self, source: Source):
        """Prepare to compute the logits of a checkpoint; nothing heavy is imported."""
        self._shape = logits_parity.shape(source.architecture)
        self._memory = mmap.mmap(-1, COUNTER + 4 * prod(self._shape))  # shared with children
        self._counted = 0
        self._source = source
        self._forks = "torch" not in sys.modules
        fork = multiprocessing.get_context("fork")
        self._receiver, sender = fork.Pipe(duplex=False)
        self._sender = sender
        self._process = fork.Process(target=_run, args=(source, self._memory, sender, os.getpid()), daemon=True)

    def __enter__(self) -> "SourceLogits":
        # Threads that wait for others of a busy machine should not spin; read when torch is imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if self._forks:
            self._process.start()
        self._sender.close()
        return self

    def __exit__(self, *_: object) -> None:
        if self._forks:
            self._process.kill()
            self._process.join()
        self._receiver.close()

    def newly_read(self) -> int:
        """Return the bytes of parameters that the second process read since the last call."""
        total = int.from_bytes(self._memory[:8], "little")
        new, self._counted = total - self._counted, total
        return new

    def wait(self, seconds: float = POLL_SECONDS) -> bool:
        """Wait up to a time; return whether `result` will return at once."""
        return not self._forks or self._receiver.poll(seconds)

    def result(self) -> "Tensor":
        """Return the fp32 logits, [batch, sequence, vocabulary], once they are complete.

        Raises UserError as the second process did; RuntimeError, with its traceback or exit code, if it failed.
        """
        import torch

        if not self._forks:
            _compute(self._source, self._memory)
            return torch.frombuffer(self._memory, dtype=torch.float32, offset=COUNTER).view(self._shape)
        try:
            error = self._receiver.recv()
        except EOFError as ended:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"the process that computes the source's logits ended with code {code}") from ended
        if isinstance(error, list):
            raise UserError(error)
        if error:
            raise RuntimeError(f"the process that computes the source's logits failed:\n{error}")
        return torch.frombuffer(self._memory, dtype=torch.float32, offset=COUNTER).view(self._shape)


def _run(source: Source, memory: mmap.mmap, sender: Connection, parent: int) -> None:
    """Write the logits into `memory`; send None, the lines of a UserError, or the traceback of another error."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    answer: Any = None
    sink = io.StringIO()  # for what NeMo prints when it is imported, and its warnings
    try:
        with redirect_stdout(sink), redirect_stderr(sink):
            _compute(source, memory)
    except UserError as error:
        answer = error.lines
    except Exception:  # noqa: BLE001 - raised in the parent
        answer = traceback.format_exc()
    sender.send(answer)


def _compute(source: Source, memory: mmap.mmap) -> None:
    import torch

    read = 0

    def count(size: int) -> None:
        nonlocal read
        read += size
        memory[:8] = read.to_bytes(8, "little")

    logits: Tensor
    if isinstance(source, HuggingFaceCheckpoint):
        from llama31.checkpoint.convert import logits_of_transformers

        logits = logits_of_transformers.logits(source, count)
    else:
        from llama31.checkpoint.convert import logits_of_megatron
        from llama31.model.cpu_backend import one_rank

        with one_rank():
            logits = logits_of_megatron.logits(source, count)
    torch.frombuffer(memory, dtype=torch.float32, offset=COUNTER).view_as(logits).copy_(logits)
