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

GRACE = 10.0  # seconds for a contender to exit after its connection is closed


class Contender:
    """A process that runs `target(connection, *arguments)`.

    The target sends any object when it is ready. Then it receives turns and answers each with the seconds of its steps,
    until the connection is closed. Its output is shown if it fails.
    """

    def __init__(self, name: str, target: Callable[..., None], *arguments: Any):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.output = tempfile.NamedTemporaryFile()  # noqa: SIM115 - as long as this object
        self.process = context.Process(target=_run_quietly, args=(self.output.name, target, theirs, *arguments))
        self.process.start()
        theirs.close()
        self._receive()

    def turn(self, loop: str, steps: int) -> Any:
        """Run `steps` steps of a loop and return the target's answer, usually their seconds."""
        self.connection.send((loop, steps))
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            printed = Path(self.output.name).read_text(errors="replace")
            raise SystemExit(f"{printed}\n{self.name} exited before its turn") from None

    def peak_memory(self) -> int:
        """Return the peak memory of the process in bytes."""
        return harness.kilobytes(Path(f"/proc/{self.process.pid}/status"), "VmHWM")

    def __enter__(self) -> "Contender":
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.connection.close()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join()


def _run_quietly(output: str, target: Callable[..., None], *arguments: Any) -> None:
    """Run the target in the new process, with its output going to a file."""
    with open(output, "ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    target(*arguments)


def timed(connection: Connection, loops: dict[str, Callable[[], None]]) -> None:
    """Run the requested steps and send their seconds, until the connection is closed."""
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
    """Run all loops in turns; the first turn of each does not count.

    Args:
        loops: Name in the result, contender, and name of the loop there.
        rounds: Turns of each loop that count.
        steps: Steps per turn.

    Returns:
        By name, the median seconds per step of each round.
    """

    def turn(contender: Contender, loop: str) -> Callable[[], float]:
        return lambda: statistics.median(contender.turn(loop, steps))

    measures = {name: turn(contender, loop) for name, contender, loop in loops}
    return harness.alternate(measures, rounds, warm_up=1)
