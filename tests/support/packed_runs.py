"""Packs ten runs into the tree of a submission, and edits what it is made from."""

import json
from pathlib import Path

import pytest
from submissions import NEWEST

from llama31 import rules
from llama31.common.errors import UserError
from llama31.mlperf.package import package, system_description

ORG, SYSTEM = "Example", "8xH200"
RESULTS = f"{ORG}/results/{SYSTEM}/{rules.BENCHMARK}"
IMPLEMENTATION = f"{ORG}/benchmarks/{rules.BENCHMARK}/implementations/{SYSTEM}"


def describe(directory: Path, **changes: str) -> Path:
    """A system description that is filled in."""
    content = dict.fromkeys(system_description.FIELDS, "something") | dict.fromkeys(system_description.COUNTS, "1")
    content |= {"submitter": ORG, "division": "closed", "status": "Available on-premise", **changes}
    file = directory / f"{SYSTEM}.json"
    file.write_text(json.dumps(content))
    return file


def later(line: str, milliseconds: float) -> str:
    prefix, token, text = line.partition(":::MLLOG ")
    said = json.loads(text)
    return f"{prefix}{token}{json.dumps(said | {'time_ms': said['time_ms'] + milliseconds})}\n"


def runs_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("run-*"))


def pack(directory: Path, **changes: object) -> int:
    """Packs the runs of a directory into a new tree."""
    given = {
        "org": ORG, "system_file": directory / f"{SYSTEM}.json", "run_dirs": runs_in(directory),
        "output": directory / "new", "ruleset": NEWEST,
    }  # fmt: skip
    return package.package(**{**given, **changes})  # type: ignore[arg-type]


def refusals(directory: Path, **changes: object) -> list[str]:
    """Return why the runs of a directory are not packed; checks that nothing was written."""
    before = sorted(directory.rglob("*"))
    with pytest.raises(UserError) as error:
        pack(directory, **changes)
    assert sorted(directory.rglob("*")) == before, "refuse before anything is written"
    return error.value.lines


def edit_json(file: Path, **changes: str | None) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
