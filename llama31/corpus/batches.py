"""The texts of the inputs, read, decompressed and parsed in a process of its own while this one encodes.

Parsing JSON holds Python's lock for a quarter of the work of tokenising; in threads of one process, the stages would
wait for each other. So do the loaders of the two tokenizer libraries: the process that reads has Hugging Face's, and
sends its ids of the texts that need them.

The process is forked and answers through a pipe with the Facts of the tokenizer, batches, then None or the UserError
that stopped it. The texts themselves pass through shared memory (see `slots`). It ends with this process: its pipe
breaks.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.corpus import documents, records
from llama31.corpus.documents import Position
from llama31.corpus.encoder import NOTHING_KNOWN, Known, use_threads
from llama31.corpus.pipeline import prefetched
from llama31.corpus.records import Skipped
from llama31.corpus.reference import Facts, TokenizerReference
from llama31.corpus.slots import COUNT, Slots
from llama31.corpus.texts import SEPARATOR, Texts

SMALL_BYTES = 4 << 20  # of all inputs on disk: fewer are read in this process
BLOCK_BYTES = 256 << 10  # of JSON, parsed at a time: what a core's cache holds; 6 MiB at a time take 1.2 times as long
SPARE_BYTES = 1 << 20  # of a slot beyond a batch: its last block; texts that need more pass through the pipe

Batch = tuple[Texts, Known, Skipped, Position]
"""The texts of consecutive lines, the exact library's ids of some, the bad lines up to their end, the position there.
"""


@dataclass(frozen=True)
class Reading:
    """What to read of which files, and from where on."""

    inputs: tuple[Path, ...]
    json_key: str
    bad_line_limit: int
    refusal: Callable[[str], str]
    """Returns why a text cannot be encoded, empty if it can."""
    position: Position
    skipped: Skipped
    batch_bytes: int
    """JSON of a batch, at least."""
    reference_dir: Path | None = None
    """Directory of the tokenizer, if batches need ids of Hugging Face's library."""

    def answers(self) -> Iterator[Facts | tuple[list[Texts], Known, Skipped, Position]]:
        """Yield the Facts if there is a reference, then each batch, with its texts block by block.

        Raises the exceptions of TokenizerReference, `documents.read` and `records.texts`, after the blocks before.
        """
        reference = TokenizerReference(self.reference_dir) if self.reference_dir else None
        if reference:
            yield reference.facts(self.inputs[0], self.json_key, self.bad_line_limit)

        def batch() -> tuple[list[Texts], Known, Skipped, Position]:
            return parts, reference.known(parts) if reference else NOTHING_KNOWN, skipped, reached

        skipped, reached = self.skipped, self.position
        parts: list[Texts] = []
        pending = 0  # bytes of JSON in these parts
        try:
            for block, position in documents.read(self.inputs, self.position, min(BLOCK_BYTES, self.batch_bytes)):
                texts, skipped = records.texts(block, self.json_key, self.refusal, skipped, self.bad_line_limit)
                reached = position
                parts.append(texts)
                pending += block.size
                if pending >= self.batch_bytes:
                    yield batch()
                    parts, pending = [], 0
        except UserError:
            if parts:  # so that they are kept, and a later call resumes after them
                yield batch()
            raise
        if parts:
            yield batch()


class Batches:
    """The batches of a Reading, from the time on at which it is made. A context manager, which ends the reading."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self._process: Any = None
        if sum(path.stat().st_size for path in reading.inputs) >= SMALL_BYTES:
            fork = multiprocessing.get_context("fork")
            self._slots = Slots(reading.batch_bytes + SPARE_BYTES)
            self._pipe, theirs = fork.Pipe()
            arguments = reading, self._slots, theirs, self._pipe
            self._process = fork.Process(target=_answer, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
        answers = self._received() if self._process else self._own()
        self._answers = prefetched(answers)

    def facts(self) -> Facts:
        """Return the facts of a reading with a reference, before any batch. Raises the exceptions of `answers`."""
        found = next(self._answers)
        assert isinstance(found, Facts)
        return found

    def __iter__(self) -> Iterator[Batch]:
        return self._answers  # type: ignore[return-value]

    def _own(self) -> Iterator[Facts | Batch]:
        """Yield the answers, reading in this process."""
        for answer in self.reading.answers():
            yield answer if isinstance(answer, Facts) else (Texts.joint(answer[0]), *answer[1:])

    def _received(self) -> Iterator[Facts | Batch]:
        """Yield the answers that the process sends. Raises the UserError that stopped it."""
        process = self._process  # `close`, in another thread, forgets it
        try:
            while (answer := self._pipe.recv()) is not None:
                if isinstance(answer, UserError):
                    raise answer
                if isinstance(answer, Facts):
                    yield answer
                    continue
                (texts, *rest), slot, size = answer
                if slot is not None:
                    texts = replace(texts, joined=self._slots.take(slot, size))
                    with contextlib.suppress(BrokenPipeError):  # if it has ended, that is seen when its answer is read
                        self._pipe.send(None)  # it may fill the slot again
                yield texts, *rest
        except (EOFError, ConnectionResetError):
            process.join()
            names = ", ".join(map(str, self.reading.inputs))
            raise UserError(f"{names}: the process that reads it ended, exit code {process.exitcode}") from None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the reading."""
        process, self._process = self._process, None  # it may be called twice
        if process:
            process.kill()
            process.join()
        self._answers.close()
        if process:
            self._pipe.close()
            self._slots.close()


def _answer(reading: Reading, slots: Slots, pipe: Connection, theirs: Connection) -> None:
    """Send the answers; run in the process that reads."""
    theirs.close()  # so that the pipe breaks when the other process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the process that asks, and so this one
    use_threads(1)
    gc.disable()  # records have no cycles
    try:
        _send(reading, slots, pipe)
    except (BrokenPipeError, ConnectionResetError, EOFError):  # the process that asked has ended, or wants no more
        os._exit(1)


def _send(reading: Reading, slots: Slots, pipe: Connection) -> None:
    filled = 0

    def send(answer: Facts | tuple[list[Texts], Known, Skipped, Position]) -> None:
        nonlocal filled
        if isinstance(answer, Facts):
            pipe.send(answer)
            return
        parts, *rest = answer
        size = sum(len(part.joined) + 1 for part in parts if len(part)) - 1
        if not 0 < size <= slots.slot_bytes:
            pipe.send(((Texts.joint(parts), *rest), None, 0))
            return
        if filled >= COUNT:
            pipe.recv()  # a slot was read
        slots.put(filled % COUNT, [part.joined for part in parts if len(part)], SEPARATOR)
        pipe.send(((Texts.joint(parts, without_bytes=True), *rest), filled % COUNT, size))
        filled += 1

    try:
        for answer in reading.answers():
            send(answer)
    except UserError as error:
        pipe.send(error)
    else:
        pipe.send(None)
