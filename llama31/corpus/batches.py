"""The texts of the inputs, read, decompressed and parsed in a process of its own while this one encodes.

Parsing JSON holds Python's lock for a quarter of the work of tokenising; in threads of one process, the stages would
wait for each other. The process gets a pickled Reading through its standard input and answers through its standard
output with pickled batches, then None or the UserError that stopped it. The texts themselves pass through shared
memory (see `slots`). It ends with this process: its pipe breaks.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from llama31.common.errors import UserError
from llama31.corpus import documents, records
from llama31.corpus.documents import Position
from llama31.corpus.pipeline import InOrder, prefetched
from llama31.corpus.records import Skipped
from llama31.corpus.slots import COUNT, Slots
from llama31.corpus.texts import SEPARATOR, Texts

SMALL_BYTES = 4 << 20  # of all inputs on disk: fewer are read in this process, before another one would have started
BLOCK_BYTES = 256 << 10  # of JSON, parsed at a time: what a core's cache holds; 6 MiB at a time take 1.2 times as long
SPARE_BYTES = 1 << 20  # of a slot beyond a batch: its last block; texts that need more pass through the pipe
FREE = b"."  # sent to the process for each slot that was read, so that it may fill it again
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
        """Yield the texts, reading in this process. Raises the exceptions of `parts`."""
        for parts, skipped, position in self.parts():
            yield Texts.joint(parts), skipped, position

    def parts(self) -> Iterator[tuple[list[Texts], Skipped, Position]]:
        """Yield the texts of each batch block by block, with the bad lines and the position at its end.

        Raises the exceptions of `documents.read` and `records.texts`, after the blocks before.
        """
        skipped, reached = self.skipped, self.position
        parts: list[Texts] = []
        pending = 0  # bytes of JSON in these parts
        try:
            for block, position in documents.read(self.inputs, self.position, min(BLOCK_BYTES, self.batch_bytes)):
                texts, skipped = records.texts(block, self.json_key, self.refusal, skipped, self.bad_line_limit)
                reached = position
                parts.append(texts)
                pending += len(block.data)
                if pending >= self.batch_bytes:
                    yield parts, skipped, reached
                    parts, pending = [], 0
        except UserError:
            if parts:  # so that they are kept, and a later call resumes after them
                yield parts, skipped, reached
            raise
        if parts:
            yield parts, skipped, reached


class Batches:
    """The batches of a Reading, from the time on at which it is made. A context manager, which ends the reading."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self._process: subprocess.Popen[bytes] | None = None
        if sum(path.stat().st_size for path in reading.inputs) >= SMALL_BYTES:
            self._slots = Slots.made(reading.batch_bytes + SPARE_BYTES)
            descriptor = self._slots.descriptor
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor]
            )
            self._tell(pickle.dumps((reading, descriptor, self._slots.slot_bytes)))
        self._items = prefetched(self._received() if self._process else reading.batches())

    def __iter__(self) -> Iterator[Batch]:
        return self._items

    def _tell(self, data: bytes) -> None:
        """Send bytes to the process; if it has ended, that is seen when its answer is read."""
        process = self._process
        if process and process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(data)
                process.stdin.flush()

    def _received(self) -> Iterator[Batch]:
        """Yield the batches that the process sends. Raises the UserError that stopped it."""
        process = self._process
        assert process and process.stdout
        try:
            while (answer := pickle.load(process.stdout)) is not None:  # noqa: S301 - of our own process
                if isinstance(answer, UserError):
                    raise answer
                (texts, skipped, position), slot, size = answer
                if slot is not None:
                    texts = replace(texts, joined=self._slots.take(slot, size))
                    self._tell(FREE)
                yield texts, skipped, position
        except (EOFError, pickle.UnpicklingError):
            names = ", ".join(map(str, self.reading.inputs))
            raise UserError(f"{names}: the process that reads it ended, exit code {process.wait()}") from None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None  # it may be called twice
        if process:
            process.kill()
            process.wait()
        self._items.close()
        if process and process.stdin and process.stdout:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()
            self._slots.close()


def answer() -> None:
    """Read what standard input asks for, and write the batches to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the process that asks, and so this one
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for anything that prints
    reading, descriptor, slot_bytes = pickle.load(sys.stdin.buffer)  # noqa: S301 - of the process that started this one
    try:
        _answer(reading, Slots(descriptor, slot_bytes), output)
    except BrokenPipeError:  # the process that asked has ended, or wants no more
        os._exit(1)


def _answer(reading: Reading, slots: Slots, output: BinaryIO) -> None:
    filled = 0

    def send(answer: object) -> None:
        pickle.dump(answer, output, pickle.HIGHEST_PROTOCOL)
        output.flush()

    def send_batch(batch: tuple[list[Texts], Skipped, Position]) -> None:
        nonlocal filled
        parts, skipped, position = batch
        size = sum(len(part.joined) + 1 for part in parts if len(part)) - 1
        if not 0 < size <= slots.slot_bytes:
            send(((Texts.joint(parts), skipped, position), None, 0))
            return
        if filled >= COUNT and sys.stdin.buffer.read(1) != FREE:
            raise BrokenPipeError
        slots.put(filled % COUNT, [part.joined for part in parts if len(part)], SEPARATOR)
        send(((Texts.joint(parts, without_bytes=True), skipped, position), filled % COUNT, size))
        filled += 1

    with InOrder(send_batch) as sending:
        try:
            for batch in reading.parts():
                sending.put(batch)
            end: UserError | None = None
        except UserError as error:
            end = error
        sending.wait()
    send(end)
