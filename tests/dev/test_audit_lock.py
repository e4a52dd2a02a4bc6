"""dev/audit_lock.py against made-up advisories; it asks no index."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import REPOSITORY
from packaging.version import Version

from dev import audit_lock


def advisory(name: str, *events: dict[str, str], number: str = "PYSEC-1", **more: Any) -> dict[str, Any]:
    span = {"type": "ECOSYSTEM", "events": list(events)}
    affected = [{"package": {"ecosystem": "PyPI", "name": name}, "ranges": [span], **more.pop("affected", {})}]
    return {"id": number, "summary": "Something is wrong.", "aliases": ["CVE-2026-1"], "affected": affected, **more}


SINCE_1 = ({"introduced": "1.0"}, {"fixed": "1.5"})
DATABASE = [advisory("Some_Package", *SINCE_1), advisory("other", {"introduced": "0"}, number="PYSEC-2")]


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.lock"
    pins = ("# comment", "some-package==1.4 ; python_full_version < '3.11'  # via x", "some-package==1.5", "third==2.0")
    file.write_text("\n".join(pins))
    return file


def audit(lock: Path, database: Path) -> int:
    return audit_lock.main([f"--lock={lock}", f"--database={database}"])


@pytest.mark.parametrize("form", ["json", "yaml directory", "zip"])
def test_a_vulnerable_version_is_named(
    form: str, lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "database.json"
    if form == "json":
        database.write_text(json.dumps(DATABASE))
    elif form == "zip":
        with zipfile.ZipFile(database, "w") as archive:
            for one in DATABASE:
                archive.writestr(f"{one['id']}.json", json.dumps(one))
    else:
        for one in DATABASE:
            (database / "vulns").mkdir(parents=True, exist_ok=True)
            (database / "vulns" / f"{one['id']}.yaml").write_text(yaml.safe_dump(one))
    assert audit(lock, database) == 1
    assert capsys.readouterr().out.splitlines() == [
        "some-package 1.4: PYSEC-1 (CVE-2026-1): Something is wrong.; fixed in 1.5",
        "3 packages of requirements.lock: 1 known vulnerabilities",
    ]


def test_others_are_none(lock: Path, tmp_path: Path) -> None:
    """Withdrawn, of another ecosystem, of other versions."""
    database = tmp_path / "database.json"
    npm = {"package": {"ecosystem": "npm", "name": "third"}}
    others = [
        advisory("third", {"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"),
        advisory("third", {"introduced": "0"}, affected=npm),
        advisory("third", {"introduced": "0"}, {"last_affected": "1.9"}, {"introduced": "2.1"}),
    ]
    database.write_text(json.dumps(others))
    assert audit(lock, database) == 0


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        (SINCE_1, ("1.0", "1.4.9"), ("0.9", "1.5", "2.0")),
        (({"introduced": "0"}, {"last_affected": "1.5"}), ("0.1", "1.5"), ("1.5.1",)),
        (({"introduced": "3"}, {"fixed": "4"}, {"introduced": "0"}, {"fixed": "1"}), ("0.5", "3.1"), ("1", "2", "4")),
    ],
)
def test_ranges(events: tuple[dict[str, str], ...], inside: tuple[str, ...], outside: tuple[str, ...]) -> None:
    (affected,) = advisory("x", *events)["affected"]
    assert all(audit_lock.is_affected(affected, Version(version)) for version in inside)
    assert not any(audit_lock.is_affected(affected, Version(version)) for version in outside)
    assert audit_lock.is_affected({"versions": ["9.0"]}, Version("9"))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"id": 1}'])
def test_a_database_of_another_form(content: str, lock: Path, tmp_path: Path) -> None:
    (tmp_path / "database.json").write_text(content)
    assert audit(lock, tmp_path / "database.json") == 2
    assert audit(lock, tmp_path / "missing") == 2


def test_a_lock_without_a_pin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lock").write_text("torch>=2\n")
    assert audit(tmp_path / "lock", tmp_path) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'lock'}:1: 'torch>=2' does not pin a version, NAME==VERSION\n"


def test_the_index() -> None:
    """What it says is reported; without a network it is asked three times, and the rest counts as unknown."""
    known = {"id": "PYSEC-1", "summary": "Bad.", "fixed_in": ["2"], "withdrawn": None, "aliases": []}
    pins = [("a", Version("1")), ("b", Version("1"))]
    assert audit_lock.from_index(pins, lambda name, _: [known] if name == "a" else []) == (
        ["a 1: PYSEC-1: Bad.; fixed in 2"], [],
    )  # fmt: skip
    asked = []

    def offline(name: str, _: Version) -> list[dict[str, Any]]:
        asked.append(name)
        raise OSError("no route")

    found, unknown = audit_lock.from_index([(name, Version("1")) for name in "abcde"], offline)
    assert found == [] and len(unknown) == 5 and asked == ["a", "b", "c"]


def test_our_lock_is_read() -> None:
    pins = list(audit_lock.read_lock(REPOSITORY / "requirements.lock"))
    assert len(pins) > 200 and any(name == "torch" for name, _ in pins)
