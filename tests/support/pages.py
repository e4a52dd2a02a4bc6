"""A report's page as a reader has it: tables by title, plots by label, figures as numbers with their rounding."""

import base64
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

UNITS = {"min": 60.0, "s": 1.0, "ms": 1e-3, "%": 1e-2, "GFLOP": 1e9, "TFLOP/s": 1e12, "": 1.0}


@dataclass
class Page(HTMLParser):
    """Contents of a page."""

    file: Path
    tables: list[list[list[str]]] = field(default_factory=list)
    """Each a list of rows, the titles first."""
    plots: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By their label, the first word of it."""
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._tag = ""
        text = self.file.read_text(encoding="utf-8")
        self.feed(re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.S))
        self.words = re.sub(r"\s+", " ", self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.words += " "
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        found = dict(attrs)
        if "data-figure" in found:
            self.plots[found["aria-label"]] = json.loads(base64.b64decode(found["data-figure"]))

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._tag in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, *titles: str) -> dict[str, dict[str, str]]:
        """Rows of the table that has these titles, by their first cell: title -> cell."""
        for head, *rows in self.tables:
            if set(titles) <= set(head):
                return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
        pytest.fail(f"no table has {titles}; there are {[table[0] for table in self.tables]}")

    def plot(self, label: str) -> dict[str, Any]:
        """The plot whose label begins so."""
        found = [plot for name, plot in self.plots.items() if name.startswith(label)]
        assert found, f"no plot {label!r}; there are {list(self.plots)}"
        return found[0]


def array(values: Any) -> np.ndarray:
    """Numbers of a plot, which plotly may have packed."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.array(values)


def figure(cell: str) -> Any:
    """The number in a cell, in seconds, shares and whole units, to within what its digits leave open."""
    match = re.search(r"(-?[\d,]+(?:\.(\d+))?) ?(%|[A-Za-z/]*)", cell)
    assert match, f"no figure: {cell!r}"
    unit = UNITS.get(match[3], 1.0)
    rounding = 0.5001 * 10.0 ** -len(match[2] or "") * unit
    return pytest.approx(float(match[1].replace(",", "")) * unit, abs=rounding, rel=1e-12)
