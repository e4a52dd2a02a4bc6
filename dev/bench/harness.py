"""Shared parts of the benches: arguments, alternating rounds, medians and ratios, tables, measured child processes.

The speed of a machine changes from minute to minute. Benches therefore alternate what they compare, in short turns, and
compare within a round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[2]

MEASURE = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
seconds, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
print(json.dumps({"code": code, "seconds": seconds, "cpu": cpu, "peak": 1024 * used.ru_maxrss}))
"""
"""A process between the bench and the command: the peak of a process counts the memory of the one that started it."""


class ChildFailed(Exception):
    """A child process ended with an error; the message has its exit code, the output has what it printed."""

    def __init__(self, command: Sequence[str], exit_code: int, output: str):
        super().__init__(f"{' '.join(command)}: exit code {exit_code}\n{output}")
        self.exit_code = exit_code
        self.output = output


# Arguments


def parser(description: str | None, directory: bool = False) -> argparse.ArgumentParser:
    """Return a parser whose --help shows the bench's docstring; `directory` adds DIRECTORY, made if it is new."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if directory:
        made.add_argument("directory", type=_made_directory, metavar="DIRECTORY")
    return made


def _made_directory(name: str) -> Path:
    directory = Path(name).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextmanager
def temporary_directory(parent: Path | None = None) -> Iterator[Path]:
    """Make a directory, below `parent` if given, and remove it at the end of the context."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)


# Rounds and statistics


def alternate(
    measures: Mapping[str, Callable[[], T]],
    rounds: int,
    warm_up: int = 0,
    each_round: Callable[[int, dict[str, T]], None] = lambda number, found: None,
) -> dict[str, list[T]]:
    """Call all measures in turn, round after round, and return their results by name.

    Args:
        measures: By name; called in this order.
        rounds: Calls of each whose results count.
        warm_up: Rounds before these whose results are discarded.
        each_round: Called after a round that counts with its number, from 1, and its results.
    """
    results: dict[str, list[T]] = {name: [] for name in measures}
    for number in range(1 - warm_up, rounds + 1):
        found = {name: measure() for name, measure in measures.items()}
        if number > 0:
            for name, result in found.items():
                results[name].append(result)
            each_round(number, found)
    return results


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Divide round by round."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def ratio_of_medians(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the ratio of the medians over all rounds."""
    return statistics.median(numerators) / statistics.median(denominators)


def spread(values: Sequence[float], form: str) -> str:
    """Format the median and the range: `1.02 (0.98 to 1.10)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    width: int
    template: str = "{}"
    """How to format a value, such as `{:.2f} GB`."""
    left: bool = False
    """Whether cells are aligned to the left."""

    def cell(self, text: str) -> str:
        """Pad a text to the column's width."""
        return text.ljust(self.width) if self.left else text.rjust(self.width)


class Table:
    """Lines of aligned columns."""

    def __init__(self, *columns: Column):
        self.columns = columns

    def head(self) -> str:
        """Return the line of titles."""
        return " ".join(column.cell(column.title) for column in self.columns).rstrip()

    def row(self, *values: object) -> str:
        """Return a line of values; the cells of values that are None, or that are not given, stay empty."""
        assert len(values) <= len(self.columns)
        texts = ["" if value is None else column.template.format(value) for column, value in zip(self.columns, values)]  # noqa: B905 - see above
        return " ".join(column.cell(text) for column, text in zip(self.columns, texts)).rstrip()  # noqa: B905


# Child processes


def json_of(
    command: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path = REPOSITORY
) -> dict[str, Any]:
    """Run this Python with further arguments and return the JSON object that it prints as its last line.

    Raises ChildFailed if it ends with an error.
    """
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=directory, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ChildFailed(command, done.returncode, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(command: Sequence[str]) -> tuple[float, float, int]:
    """Run a command in the repository; return its seconds, its CPU seconds and the bytes of its largest process.

    Raises ChildFailed if it ends with an error.
    """
    found = json_of(["-c", MEASURE, *command])
    if found["code"]:
        raise ChildFailed(command, found["code"], "")
    return found["seconds"], found["cpu"], found["peak"]


# Memory


def kilobytes(file: Path, name: str) -> int:
    """Return a value of a file of /proc that counts in kB, in bytes."""
    return 1024 * next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name}:"))


def peak_memory() -> int:
    """Return the peak memory of this process in bytes; getrusage would count that of its parent too."""
    return kilobytes(Path("/proc/self/status"), "VmHWM")


def available_memory() -> int:
    """Return the bytes of memory that are available without swapping."""
    return kilobytes(Path("/proc/meminfo"), "MemAvailable")
