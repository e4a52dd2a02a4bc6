"""Exceptions that end a command or a run with a message instead of a traceback."""

import traceback
from collections.abc import Iterable
from pathlib import Path

from llama31.common.printable import printable

PACKAGE = Path(__file__).resolve().parents[1]


class UserError(Exception):
    """One or more mistakes of the user, a line each: what is wrong, its value, and what would work.

    Entry points print the lines and exit with code 2 (see `llama31.cli.main`).
    """

    def __init__(self, lines: str | Iterable[str]):
        given = [lines] if isinstance(lines, str) else lines
        self.lines = [printable(line) for text in given for line in text.split("\n")]
        super().__init__("\n".join(self.lines))


class RunAborted(Exception):
    """Training cannot continue; the message gives the reason in one line, `exit_code` the code to exit with."""

    def __init__(self, reason: str, exit_code: int):
        super().__init__(reason)
        self.exit_code = exit_code


def is_of_disk(error: UserError) -> bool:
    """Return whether the operating system failed, not the content of a file; see `files.failures_named`."""
    return isinstance(error.__cause__, OSError)


def line_of(error: OSError) -> str:
    """Return a failure of the operating system as one line: with the file, or else with the place in our code."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in Path(frame.filename).parents]
    if not ours:
        return reason
    return f"{reason} ({Path(ours[-1].filename).relative_to(PACKAGE.parent)}, line {ours[-1].lineno})"
