"""Make a table of results: targets in rows, kinds of faults in columns.

    python3 -m dev.faults.table DIRECTORY [DIRECTORY ...]

A cell has the number of tries, and in brackets how many of them were wrong at first; an empty one had none. Of each try
the first and the newest result count: wrong at first, and right now, is fixed. Directories are those of campaigns; of
two with the same try, such as a campaign over an earlier version of the product, the first one's is older.
"""

import sys
from pathlib import Path
from typing import Any

from dev.faults import campaign

COLUMNS = {
    "open, read, stat": ("open", "read", "stat"),
    "mmap, statfs, flock": ("mmap", "statfs", "flock"),
    "create, write": ("create", "write", "mkdir"),
    "fsync, close": ("fsync", "close"),
    "rename, link, unlink": ("rename", "link", "unlink"),
    "killed": ("kill", "kill-all", "kill-first"),
    "stopped": ("stop",),
    "disk full, aborted": ("file system: full", "file system: inodes", "file system: read-only"),
}
TITLES = ("target", *COLUMNS, "tried", "right", "wrong at first", "fixed")

Tries = dict[tuple[str, int, int, str], list[dict[str, Any]]]
"""Target, seed, number and fault -> results, oldest first."""


def table(directories: list[Path]) -> list[str]:
    """Return the lines of a table in Markdown."""
    tries: Tries = {}
    for directory in directories:
        for result in campaign.results(directory):
            key = (result["target"], result["seed"], result["number"], result["fault"])
            tries.setdefault(key, []).append(result)
    names = list(dict.fromkeys(key[0] for key in tries))
    rows = [_row(name, {key: found for key, found in tries.items() if key[0] == name}) for name in names]
    rows.append(_row("all", tries))
    marks = [":--", *("--:" for _ in TITLES[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (TITLES, marks, *rows)]


def _row(name: str, tries: Tries) -> list[str]:
    cells = [name]
    for kinds in COLUMNS.values():
        of_kind = [found for found in tries.values() if found[0]["kind"] in kinds]
        wrong = sum(bool(found[0]["problems"]) for found in of_kind)
        cells.append(f"{len(of_kind)}" + (f" ({wrong})" if wrong else "") if of_kind else "")
    right = sum(not found[-1]["problems"] for found in tries.values())
    wrong = sum(bool(found[0]["problems"]) for found in tries.values())
    fixed = sum(bool(found[0]["problems"]) and not found[-1]["problems"] for found in tries.values())
    return [*cells, str(len(tries)), str(right), str(wrong), str(fixed)]


if __name__ == "__main__":
    print("\n".join(table([Path(name) for name in sys.argv[1:]])))
