"""Numbers and durations as text."""

import pytest

from llama31.common import units


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (72_390_123, "72.39 MB"),
        (112_428_000_000, "112.4 GB"),
        (3_841e9, "3.841 TB"),
        (8.004e15, "8.004 PB"),
        (2e18, "2000 PB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert units.size(count) == text


def test_other_units() -> None:
    assert units.scaled(989e12, "FLOP/s") == "989 TFLOP/s"
    assert units.scaled(0.5, "FLOP") == "0.5 FLOP"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00:00"), (59.6, "0:01:00"), (11_178, "3:06:18"), (86_399, "23:59:59"), (180_005, "50:00:05")],
)
def test_durations(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text
