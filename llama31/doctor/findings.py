"""Findings of the checks, and how those of several nodes are combined into lines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from llama31.common.printable import printable
from llama31.common.units import scaled

SHOWN = 3  # nodes or packages named in a line


class Severity(Enum):
    """Whether a run would start: with warnings it does, with failures it does not."""

    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True)
class Finding:
    """One result of a check on one node."""

    severity: Severity
    says: str
    remedy: str = ""
    rate: float | None = None
    """Measured bytes per second; of several nodes the slowest is shown."""


def ok(says: str, rate: float | None = None) -> Finding:
    """Return a finding without a problem."""
    return Finding(Severity.ok, says, rate=rate)


def failed(line: str) -> Finding:
    """Return a failure whose line contains its remedy, like those of UserError."""
    return Finding(Severity.failed, line)


def to_json(findings: Sequence[Finding]) -> list[list[Any]]:
    """Return findings as JSON values."""
    return [[finding.severity.name, finding.says, finding.remedy, finding.rate] for finding in findings]


def from_json(values: Sequence[Sequence[Any]]) -> list[Finding]:
    """Return findings from the values of `to_json`. Raises ValueError or TypeError for anything else."""
    return [
        Finding(Severity(name), shown(says), shown(remedy), None if rate is None else float(rate))
        for name, says, remedy, rate in values
    ]


def shown(text: str) -> str:
    """Return the text of another task without what could steer a terminal. Raises TypeError if it is none."""
    if not isinstance(text, str):
        raise TypeError("not a text")
    return printable(text)


def lines(check: str, found: Mapping[str, Sequence[Finding]]) -> Iterator[str]:
    """Yield a line for each distinct finding, with node names unless all nodes have it. `found`: node -> findings."""
    same: dict[Finding, dict[str, float]] = {}
    for node, findings in found.items():
        for finding in findings:
            rates = same.setdefault(replace(finding, rate=None), {})
            rates[node] = min(finding.rate or math.inf, rates.get(node, math.inf))
    for finding, rates in same.items():
        where = "" if len(rates) == len(found) else f"{first_of(list(rates))}: "
        slowest = min(rates, key=rates.__getitem__)
        measured = "" if math.isinf(rates[slowest]) else f" {scaled(rates[slowest], 'B/s')}"
        if measured and len(rates) > 1:
            measured += f" on {slowest}, the slowest"
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        yield f"{finding.severity.name:<8} {f'{check}:':<13} {where}{finding.says}{measured}{remedy}"


def first_of(names: Sequence[str]) -> str:
    """Join the first names, and count the rest."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
