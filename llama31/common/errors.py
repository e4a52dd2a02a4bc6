"""What a user can put right, and what ends a run."""

from collections.abc import Iterable


class UserError(Exception):
    """One or more mistakes of the user, each in one line: what is wrong, its value, what would work.

    Entry points print the lines and leave with exit code 2, without a traceback (see `llama31.cli.main`).
    """

    def __init__(self, lines: str | Iterable[str]):
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))


class RunAborted(Exception):
    """Training cannot go on; the message says why in one line, `exit_code` is the one to leave with."""

    def __init__(self, reason: str, exit_code: int):
        super().__init__(reason)
        self.exit_code = exit_code
