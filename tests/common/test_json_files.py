"""Dataclasses are read back from their files unchanged; a damaged file gives one line that names it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from llama31.common import json_files
from llama31.common.errors import UserError
from llama31.common.json_files import DamagedJson


@dataclass(frozen=True)
class Inner:
    line: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    status: Literal["success", "aborted"]
    inner: Inner
    several: tuple[Inner, ...]
    counts: dict[str, int]
    loss: float | None
    origins: list[str] = field(default_factory=list)
    newer: int | None = None


VALUE = Outer("success", Inner(1, ("a", "b")), (Inner(2), Inner(3, ("c",))), {"x": 1}, None, ["y"], 4)


def test_a_dataclass_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file.json"
    json_files.write_json(file, VALUE)
    assert json_files.read_json(Outer, file) == json_files.read_json_if_present(Outer, file) == VALUE
    assert file.read_text() == json_files.to_json(VALUE)
    assert file.read_text().startswith('{\n  "status": "success",\n  "inner": {\n    "line": 1,')
    assert [entry.name for entry in file.parent.iterdir()] == ["file.json"]


def test_other_values_come_back(tmp_path: Path) -> None:
    json_files.write_json(tmp_path / "file", {"a": [1, None]})
    assert json_files.load_json(tmp_path / "file") == json_files.load_object(tmp_path / "file") == {"a": [1, None]}
    json_files.write_json(tmp_path / "file", [1])
    assert json_files.load_json(tmp_path / "file") == [1]
    with pytest.raises(DamagedJson, match=r"file: not a JSON object$"):
        json_files.load_object(tmp_path / "file")


def content(**changes: Any) -> dict[str, Any]:
    whole = json.loads(json_files.to_json(VALUE)) | changes
    return {name: value for name, value in whole.items() if value != "missing"}


def test_files_of_other_versions_are_read() -> None:
    """An older one lacks a field; a newer one has more of them; the indent was another."""
    assert json_files.from_json(Outer, content(newer="missing")).newer is None
    assert json_files.from_json(Outer, content(newest=1)) == VALUE
    text = json.dumps(content(), indent=1)
    assert json_files.parse_json(Outer, text, Path("file")) == VALUE


@pytest.mark.parametrize(
    ("damaged", "line"),
    [
        (content(status="lost"), "damaged (TypeError: status='lost')"),
        (content(status="missing"), "damaged (KeyError: 'status')"),
        (content(origins="missing"), "damaged (KeyError: 'origins')"),
        (content(loss="0.5"), "damaged (TypeError: loss='0.5')"),
        (content(newer="4"), "damaged (TypeError: newer='4')"),
        (content(inner=3), "damaged (TypeError: no object: 3)"),
        (content(inner={"line": "1", "names": []}), "damaged (TypeError: line='1')"),
        (content(inner={"line": 1, "names": [2]}), "damaged (TypeError: names=2)"),
        (content(several={}), "damaged (TypeError: several={})"),
        (content(several=[{}]), "damaged (KeyError: 'line')"),
        ([], "damaged (TypeError: no object: [])"),
    ],
)
def test_a_damaged_file_is_one_line(damaged: Any, line: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(json.dumps(damaged))
    for read in (json_files.read_json, json_files.read_json_if_present):
        with pytest.raises(DamagedJson) as error:
            read(Outer, file)
        assert error.value.lines == [f"{file}: {line}"]


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1', b"\xff", b"\0\0"])
def test_a_file_that_is_not_json_is_one_line(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(text)
    with pytest.raises(DamagedJson) as error:
        json_files.load_json(file)
    assert len(error.value.lines) == 1 and error.value.lines[0].startswith(f"{file}: not JSON: ")
    with pytest.raises(DamagedJson) as error:
        json_files.read_json(Outer, file)
    assert len(error.value.lines) == 1 and error.value.lines[0].startswith(f"{file}: damaged (")


def test_a_file_that_cannot_be_read_is_not_damaged(tmp_path: Path) -> None:
    missing, directory = tmp_path / "missing", tmp_path
    assert json_files.read_json_if_present(Outer, missing) is None
    for path, reason in ((missing, "No such file or directory"), (directory, "Is a directory")):
        with pytest.raises(UserError) as error:
            json_files.read_json(Outer, path)
        assert error.value.lines == [f"{path}: {reason}"]
        assert not isinstance(error.value, DamagedJson)


def test_json_that_is_too_deep_to_be_read(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("[" * 100_000)
    for read in (json_files.load_json, lambda path: json_files.read_json(Outer, path)):
        with pytest.raises(DamagedJson, match="nested too deeply"):
            read(file)
