"""The one exception for what a user can put right."""

from collections.abc import Iterable


class UserError(Exception):
    """One or more mistakes of the user, each in one line: what is wrong, its value, what would work.

    Entry points print the lines and leave with exit code 2, without a traceback (see `llama31.cli`).
    """

    def __init__(self, lines: str | Iterable[str]):
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))
