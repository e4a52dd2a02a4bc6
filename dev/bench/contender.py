"""Processes that a bench compares: each runs steps on request and waits otherwise."""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dev.bench import harness

GRACE = 10.0  # seconds for a contender to end by itself


class Contender:
    """A process that was started for `target(connection, *arguments)`.

    The target sends anything when it is ready; then it receives turns and answers each with the seconds of its steps,
    until the connection ends. What it prints is shown where it fails.
    """

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.output = tempfile.NamedTemporaryFile()  # noqa: SIM115 - as long as this object
        self.process = context.Process(target=_unheard, args=(self.output.name, target, theirs, *arguments))
        self.process.start()
        theirs.close()
        self._receive()

    def turn(self, loop: str, steps: int) -> Any:
        """What the target answers: seconds of `steps` steps of a loop."""
        self.connection.send((loop, steps))
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            printed = Path(self.output.name).read_text(errors="replace")
            raise SystemExit(f"{printed}\n{self.name} ended before its turn") from None

    def peak_memory(self) -> int:
        """Most bytes that the process held at once."""
        return harness.kilobytes(Path(f"/proc/{self.process.pid}/status"), "VmHWM")

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join()


def _unheard(output: str, target: Callable[..., None], *arguments: Any) -> None:
    """Is the process: what it prints goes to a file."""
    with open(output, "ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    target(*arguments)


def timed(connection: Connection, loops: dict[str, Callable[[], None]]) -> None:
    """Makes the steps that are asked for, and answers with their seconds, until the connection ends."""
    connection.send("ready")
    while True:
        try:
            loop, steps = connection.recv()
        except EOFError:
            return
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            loops[loop]()
            seconds.append(time.perf_counter() - began)
        connection.send(seconds)


def in_turns(loops: Sequence[tuple[str, Contender, str]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Lets all loops take turns; the first turn of each is not counted.

    Args:
        loops: Name, contender, and the contender's name of the loop.
        rounds: Turns of each.
        steps: Steps of a turn.

    Returns:
        By name, the median seconds of a step in each round.
    """

    def turn(contender: Contender, loop: str) -> Callable[[], float]:
        return lambda: statistics.median(contender.turn(loop, steps))

    measures = {name: turn(contender, loop) for name, contender, loop in loops}
    return harness.alternate(measures, rounds, warm_up=1)
