"""Find misspelt keys: unknown to every ruleset, and close to one that is missing."""

import difflib
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import RUN_RESUMED, TARGET_ACCURACY, TRACKED_STATS, Log, Violation

KNOWN = {
    *(value for name, value in vars(constants).items() if name.isupper() and isinstance(value, str)),
    RUN_RESUMED,
    TARGET_ACCURACY,
    TRACKED_STATS,
}
"""Words of mlperf-logging, all its keys among them, and this project's keys."""
_SIMILARITY = 0.85  # of difflib; lowest_numerical_precision_linear is at 0.96 from the right key


def hinted(findings: Iterable[Violation], log: Log) -> list[Violation]:
    """Add to each violation about a missing key the misspelt key that the log has instead."""
    return [replace(finding, hint=near(finding.key, log)) if finding.is_missing else finding for finding in findings]


def near(key: str, log: Log) -> str:
    """Return which line has a misspelling of `key`; empty if none has."""
    for record in log.records:
        if record.key not in KNOWN and _closest(record.key) == key:
            return f"line {record.number} has {record.key}"
    return ""


@cache
def _closest(unknown: str) -> str:
    """Return the known word closest to an unknown one; empty if it resembles none."""
    return next(iter(difflib.get_close_matches(unknown, KNOWN, n=1, cutoff=_SIMILARITY)), "")
