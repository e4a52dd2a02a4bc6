"""What the nodes reported about emptying their caches before a run (CLEAR_CACHES). Standard library only.

The file has a line for each node; `llama31.launch.caches` and the job's script write it.
"""

from pathlib import Path

from llama31.config import paths
from llama31.settings import Settings

CLEARED = ": caches cleared, "
"""Part of the line of a node that emptied its caches, after the node's name."""


def were_cleared(run_dir: Path, settings: Settings) -> bool:
    """Return whether every node of the run emptied its caches before the ranks started."""
    nodes = {line.partition(CLEARED)[0] for line in _lines(run_dir) if CLEARED in line}
    return settings.clear_caches and len(nodes) == settings.nnodes


def failure(run_dir: Path) -> str:
    """Return why caches were not cleared, in one line."""
    others = [line for line in _lines(run_dir) if line.strip() and CLEARED not in line]
    return "; ".join(others) or "CLEAR_CACHES=1: not every node reported that its caches are cleared"


def _lines(run_dir: Path) -> list[str]:
    file = run_dir / paths.CACHES
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
