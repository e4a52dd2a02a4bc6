"""Commands of the product, and their output without what differs from run to run."""

import re
import sys
from collections.abc import Sequence

SECONDS = re.compile(r"\d[\d.,]* ?(s|ms|[kMG]?B/s)\b")
NUMBERS = re.compile(r"\d[\d.,]*( [kMGT]?B\b)?")
TIMES = re.compile(r"\d{8}-\d{6}(-\d{1,3}\b)?|\d{4}-\d\d-\d\dT[\d:.+-]*Z?")


def llama31(*words: object) -> Sequence[str]:
    """Return a command of the product."""
    return [sys.executable, "-m", "llama31", *map(str, words)]


def without_seconds(text: str) -> str:
    """Return output without figures of time and speed."""
    return SECONDS.sub("", text)


def without_numbers(text: str) -> str:
    """Return output without any figures, and the units of sizes and speeds."""
    return NUMBERS.sub("", without_seconds(text))


def without_times(text: str) -> str:
    """Return a text without times of the day."""
    return TIMES.sub("TIME", text)
