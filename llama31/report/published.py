"""Systems of published MLPerf Training rounds that ran this benchmark, one table for each round."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROUNDS = ("v5.1", "v6.0")
PUBLISHED = "published"
"""Basis of a score that MLCommons published.

Other scores were computed from the logs: `measured` over all runs, or `derived` from one.
"""

T = TypeVar("T")


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
    """Where the score comes from: published | measured | derived | none (see the table's first lines)."""
    mean_samples: float | None
    """Mean over all runs of the system."""
    tokens_per_second_per_accelerator: float | None
    mfu_bf16_peak: float | None
    note: str

    @property
    def is_exact(self) -> bool:
        """Whether the score is based on all runs of the system."""
        return self.basis != "derived"


def published() -> list[Published]:
    """Return all systems of all rounds, each round fastest first."""
    return [system for name in ROUNDS for system in _round(name)]


def _round(name: str) -> list[Published]:
    table = Path(__file__).with_name(f"published_{name}.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        Published(
            round=name,
            org=row["org"],
            system=row["system"],
            accelerators=int(row["accelerators"]),
            accelerator=row["accelerator"],
            gbs=int(row["gbs"]),
            precision=row["precision"],
            score_minutes=_cell(row["score_minutes"], float),
            basis=row.get("basis") or PUBLISHED,
            mean_samples=_cell(row["mean_samples"], float),
            tokens_per_second_per_accelerator=_cell(row["tokens_per_second_per_accelerator"], float),
            mfu_bf16_peak=_cell(row["mfu_bf16_peak"], float),
            note=row.get("note") or "",
        )
        for row in rows
    ]


def _cell(text: str, kind: Callable[[str], T]) -> T | None:
    return kind(text) if text else None
