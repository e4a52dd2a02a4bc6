"""YAML of others is read as plain values, or refused; the loader itself is never given what would crash it."""

import pytest
import yaml

from llama31.common import yaml_files
from llama31.common.yaml_files import parsed

NESTED = {"a": [1, 2.5, None, True, {"b": "c"}], "d": "e"}


def test_values() -> None:
    shared = [1]
    assert parsed(yaml.safe_dump({**NESTED, "x": shared, "y": shared}).encode()) == {**NESTED, "x": [1], "y": [1]}


@pytest.mark.parametrize(
    "content",
    [
        b"[",
        b"a: *b",
        b"\xff",
        b"a: !!python/object/apply:os.mkdir [x]",
        b"a: !!timestamp x",
        b"a: 9999-99-99",
        b"!!int x",
    ],
)
def test_what_is_no_plain_yaml(content: bytes) -> None:
    with pytest.raises(ValueError):
        parsed(content)


@pytest.mark.parametrize("level", ["[", "- ", "? ", "{a: "])
def test_deep_nesting_is_not_loaded(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the loader is called")

    monkeypatch.setattr(yaml, "load", load)
    with pytest.raises(ValueError, match="nested in more than 100 levels"):
        parsed(level.encode() * 200)


def test_aliases_that_unfold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_files, "MOST", 50)
    assert parsed(b"[&a [1, 2, 3], *a, *a]") == [[1, 2, 3]] * 3
    with pytest.raises(ValueError, match="more than 50 values"):
        parsed(b"[&a [1, 2, 3], &b [*a, *a, *a], [*b, *b, *b]]")
