"""The texts of the inputs, read, decompressed and parsed in a process of its own while this one encodes.

Parsing JSON holds Python's lock for a quarter of the work of tokenising; in threads of one process, the stages would
wait for each other. The process gets a pickled Reading through its standard input and answers through its standard
output with pickled batches, then None or the UserError that stopped it. It ends with this process: its pipe breaks.
"""

import contextlib
import fcntl
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llama31.common.errors import UserError
from llama31.corpus import documents, records
from llama31.corpus.documents import Position
from llama31.corpus.pipeline import InOrder, prefetched
from llama31.corpus.records import Skipped
from llama31.corpus.texts import Texts

SMALL_BYTES = 4 << 20  # of all inputs on disk: fewer are read in this process, before another one would have started
BLOCK_BYTES = 256 << 10  # of JSON, parsed at a time: what a core's cache holds; 6 MiB at a time take 1.2 times as long
PIPE_BYTES = 1 << 20  # the largest pipe that Linux gives any user; it starts with 64 KiB
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from llama31.corpus.batches import answer; answer()"

Batch = tuple[Texts, Skipped, Position]
"""The texts of consecutive lines, the bad lines up to their end, and the position there."""


@dataclass(frozen=True)
class Reading:
    """What to read of which files, and from where on."""

    inputs: tuple[Path, ...]
    json_key: str
    bad_line_limit: int
    refusal: Callable[[str], str]
    """Returns why a text cannot be encoded, empty if it can; a function of a module, so that it can be pickled."""
    position: Position
    skipped: Skipped
    batch_bytes: int
    """JSON of a batch, at least."""

    def batches(self) -> Iterator[Batch]:
        """Yield the texts, reading in this process.

        Raises the exceptions of `documents.read` and `records.texts`.
        """
        skipped, position = self.skipped, self.position
        parts: list[Texts] = []
        pending = 0  # bytes of JSON in these parts
        for block, position in documents.read(self.inputs, self.position, min(BLOCK_BYTES, self.batch_bytes)):
            texts, skipped = records.texts(block, self.json_key, self.refusal, skipped, self.bad_line_limit)
            parts.append(texts)
            pending += len(block.data)
            if pending >= self.batch_bytes:
                yield Texts.joint(parts), skipped, position
                parts, pending = [], 0
        if parts:
            yield Texts.joint(parts), skipped, position


class Batches:
    """The batches of a Reading, from the time on at which it is made. A context manager, which ends the reading."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self._process: subprocess.Popen[bytes] | None = None
        if sum(path.stat().st_size for path in reading.inputs) >= SMALL_BYTES:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert self._process.stdin and self._process.stdout
            with contextlib.suppress(OSError):  # a system may limit it to less
                fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            with contextlib.suppress(BrokenPipeError):  # seen again when its answers are read
                pickle.dump(reading, self._process.stdin)
                self._process.stdin.close()
        self._items = prefetched(self._received() if self._process else reading.batches())

    def __iter__(self) -> Iterator[Batch]:
        return self._items

    def _received(self) -> Iterator[Batch]:
        """Yield the batches that the process sends. Raises the UserError that stopped it."""
        assert self._process and self._process.stdout
        try:
            while (answer := pickle.load(self._process.stdout)) is not None:  # noqa: S301 - of our own process
                if isinstance(answer, UserError):
                    raise answer
                yield answer
        except (EOFError, pickle.UnpicklingError):
            names = ", ".join(map(str, self.reading.inputs))
            raise UserError(f"{names}: the process that reads it ended, exit code {self._process.wait()}") from None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._items.close()
        if self._process and self._process.stdout:
            self._process.stdout.close()


def answer() -> None:
    """Read what standard input asks for, and write the batches to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the process that asks, and so this one
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for anything that prints
    try:
        _answer(pickle.load(sys.stdin.buffer), output)  # noqa: S301 - of the process that started this one
    except BrokenPipeError:  # the process that asked has ended, or wants no more
        os._exit(1)


def _answer(reading: Reading, output: BinaryIO) -> None:
    def send(answer: Batch | UserError | None) -> None:
        pickle.dump(answer, output, pickle.HIGHEST_PROTOCOL)
        output.flush()

    with InOrder(send) as sending:
        try:
            for batch in reading.batches():
                sending.put(batch)
            end: UserError | None = None
        except UserError as error:
            end = error
        sending.put(end)
        sending.wait()
