"""Exceptions that end a command or a run with a message instead of a traceback."""

from collections.abc import Iterable

from llama31.common.printable import printable


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
