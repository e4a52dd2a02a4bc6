"""dev.fuzz: a short campaign with a fixed seed, the guard that judges it, and the changes that it makes."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY, SUPPORT

from dev.fuzz import mutation
from dev.fuzz.targets import TARGETS

INPUTS = 12  # of each target
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dev.fuzz", f"--inputs={INPUTS}", f"--tally={tmp_path / 'tally.json'}"]
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tallies = json.loads((tmp_path / "tally.json").read_text())
    assert {name: tally["next"] for name, tally in tallies.items()} == {f"{name} 1": INPUTS for name in TARGETS}
    before = (tmp_path / "tally.json").read_text()
    subprocess.run([*command, "--target=system-description"], cwd=REPOSITORY, env=ENVIRONMENT, check=True)
    assert (tmp_path / "tally.json").read_text() == before, "what is done is not done again"


DEEDS = {
    "executes": ("", "executes /"), "starts": ("PermissionError", "subprocess.Popen"), "connects": ("", "socket.bind"),
    "writes": ("", "outside, outside the sandbox"), "renames": ("", "outside, outside the sandbox"),
    "remembers": ("", " MiB of memory"), "computes": ("Hang", ""), "nothing": ("", ""),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("deed", DEEDS)
def test_the_guard(deed: str, tmp_path: Path) -> None:
    command = [sys.executable, SUPPORT / "guarded.py", tmp_path / "sandbox", deed]
    done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    ended, found = json.loads(done.stdout)
    expected, finding = DEEDS[deed]
    assert ended == expected
    assert any(finding in one for one in found) if finding else found == []


CONTENTS = {
    "json": b'{"a": [1, {"b": "c"}], "d": null}', "log": b':::MLLOG {"key": "x", "value": 1}\n' * 3,
    "yaml": b"a: 1\nb: [x, y]\n", "safetensors": (16).to_bytes(8, "little") + b'{"a": {"b": 1}} ' + bytes(64),
    "pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94K\x01a.", "bytes": bytes(range(256)), "empty": b"",
}  # fmt: skip


def test_large_numbers_are_changed() -> None:
    found = [mutation.changed_value(10**4000, random.Random(seed)) for seed in range(50)]
    assert any(one != 10**4000 for one in found)


@pytest.mark.parametrize("kind", CONTENTS)
def test_changes(kind: str) -> None:
    """The same seed makes the same change, different ones different changes; the size is limited."""
    content = CONTENTS[kind]

    def changed(seed: int) -> bytes:
        return mutation.mutate(content, random.Random(seed), [b"other"])

    found = [changed(seed) for seed in range(300)]
    assert found == [changed(seed) for seed in range(300)]
    assert len(set(found)) > 20 and all(len(one) <= mutation.LARGEST for one in found)


def test_a_directory_is_changed(tmp_path: Path) -> None:
    for seed in range(60):
        directory = tmp_path / str(seed)
        directory.mkdir()
        for name in ("one", "two"):
            (directory / name).write_bytes(CONTENTS["json"])
        assert mutation.change_directory(directory, random.Random(seed))
    entries = [{path.name: path.is_file() for path in (tmp_path / str(seed)).iterdir()} for seed in range(60)]
    assert any(one != {"one": True, "two": True} for one in entries), "entries are changed too"
