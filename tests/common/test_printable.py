"""What comes from files of others cannot steer a terminal."""

import pytest

from llama31.common.errors import UserError
from llama31.common.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Zürich, 10\u00a0°C: 世界 🙂", "Zürich, 10\u00a0°C: 世界 🙂"),
        ("\x1b]0;title\x07\x1b[31mred", "?]0;title??[31mred"),
        ("two\nlines\r", "two lines "),
        ("a\u202eb\u200b", "a?b?"),
        ("half \ud83d", "half ?"),
    ],
)
def test_characters(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lines_of_an_error() -> None:
    assert UserError(["a\x1b[31m", "two\nlines\r"]).lines == ["a?[31m", "two", "lines "]
