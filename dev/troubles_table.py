#!/usr/bin/env python3
"""Rewrite the table of docs/troubleshooting.md from the doctor's list of known failures.

python3 -m dev.troubles_table
"""

from pathlib import Path

from llama31.doctor import troubles

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"


def page(text: str) -> str:
    """Return the page's text with the current table in place of the one it has. Raises ValueError if it has none."""
    titles, *rows = troubles.table()
    before, found, rest = text.partition(f"{titles}\n")
    if not found:
        raise ValueError(f"{PAGE} lacks the line {titles}")
    after = rest[rest.index("\n\n") :]
    return before + "\n".join([titles, *rows]) + after


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
