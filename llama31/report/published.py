"""Systems of published MLPerf Training rounds that ran this benchmark, one table for each round."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROUNDS = ("v5.1", "v6.0")
TEXTS = ("org", "system", "accelerator", "precision")
NUMBERS = ("score_minutes", "mean_samples", "tokens_per_second_per_accelerator", "mfu_bf16_peak")


@dataclass(frozen=True)
class Published:
    """One system of a published round: a row of its table. None: an empty cell."""

    round: str
    org: str
    system: str
    accelerators: int
    accelerator: str
    gbs: int
    precision: str
    score_minutes: float | None
    basis: str
    """Source of the score: published by MLCommons; from the logs, measured over all runs or derived from one; none."""
    mean_samples: float | None
    """Mean over all runs of the system."""
    tokens_per_second_per_accelerator: float | None
    mfu_bf16_peak: float | None
    note: str


def published() -> list[Published]:
    """Return all systems of all rounds, each round fastest first."""
    return [system for name in ROUNDS for system in _round(name)]


def _round(name: str) -> list[Published]:
    table = Path(__file__).with_name(f"published_{name}.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found = []
    for row in rows:
        cells: dict[str, Any] = {column: row[column] for column in TEXTS}
        cells |= {column: int(row[column]) for column in ("accelerators", "gbs")}
        cells |= {column: float(row[column]) if row[column] else None for column in NUMBERS}
        found.append(Published(round=name, basis=row.get("basis") or "published", note=row.get("note") or "", **cells))
    return found
