"""dev.faults: faults strike where they should, the judge finds what is wrong, and a short campaign over the product."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lacking
import pytest
from checkout import REPOSITORY, SUPPORT

from dev.faults import campaign, fault, table
from dev.faults.fault import ERRORS, Fault

pytestmark = pytest.mark.slow

SHORT = (
    ("--count=7", "compress", "consolidate", "tokenize", "verify"),
    ("--count=7", "download", "status", "submit"),
    ("--count=3", "report", "index", "check"),
    ("--count=2", "run"),
)
"""A campaign of 60 faults: options and targets of processes that run at the same time."""


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    if not shutil.which("cc"):
        lacking.skip("a C compiler builds the library that fails calls")


def tried(directory: Path, program: str, of: str) -> dict[str, Any]:
    """The verdict on a program of faulty_programs.py under a fault."""
    command = [sys.executable, SUPPORT / "faulty_programs.py", directory, program, of]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True
    )
    verdict: dict[str, Any] = json.loads(done.stdout)
    return verdict


@pytest.mark.parametrize(
    ("program", "of", "found"),
    [
        ("careless", "write:ENOSPC:copy:3:1", "prints a traceback"),
        ("careless", "write:ENOSPC:copy:3:1", "copy: neither as before nor as it must become"),
        ("careless", "write:kill:copy:3:1", "copy: neither as before nor as it must become"),
        ("deaf", "write:EIO:copy*:1:1", "says it succeeded, but copy differs"),
        ("forgetful", "create:EDQUOT:copy*:1:1", "copy: lost"),
        ("hanging", "read:EIO:source:1:1", "hangs: no end within 3 s"),
    ],
)
def test_the_judge_finds(tmp_path: Path, program: str, of: str, found: str) -> None:
    verdict = tried(tmp_path, program, of)
    assert verdict["struck"] and found in verdict["problems"], verdict


@pytest.mark.parametrize(
    ("of", "code"),
    [
        ("create:EACCES:copy*:1:1", 1),
        ("write:ENOSPC:*:1:1000000000", 1),
        ("write:short:copy*:1:1000000000", 0),
        ("fsync:EIO:copy*:1:1", 1),
        ("rename:kill-all:copy:1:1", -9),
        ("read:stop:source:1:1", 0),
        ("read:EINTR:source:1:1", 0),
    ],
)
def test_the_judge_accepts(tmp_path: Path, of: str, code: int) -> None:
    verdict = tried(tmp_path, "careful", of)
    assert (verdict["struck"], verdict["code"], verdict["problems"]) == (True, code, [])


@pytest.mark.parametrize("of", ["any:full:*:4096:1000000000", "any:inodes:*:0:1000000000", "rename:read-only:copy:1:1"])
def test_real_file_systems(tmp_path: Path, of: str) -> None:
    if os.geteuid():
        lacking.skip("only root can mount small file systems")
    verdict = tried(tmp_path, "careful", of)
    assert (verdict["struck"], verdict["code"], verdict["problems"]) == (True, 1, [])


def test_a_fault_is_drawn_again_from_its_seed() -> None:
    calls = {(call, "a file"): 3 for call in ERRORS}

    def drawn(seed: int) -> list[Fault]:
        return [
            fault.draw(calls, (100, 2), campaign.chance_of(seed, "name", number), disks=True) for number in range(99)
        ]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {Fault.parse(str(one)) for one in drawn(1)} == set(drawn(1))
    assert {one.call for one in drawn(1)} >= set(ERRORS)


def test_60_faults_and_nothing_lost(tmp_path: Path) -> None:
    begun = []
    for number, (count, *names) in enumerate(SHORT):
        directory = tmp_path / str(number)
        chosen = [f"--target={name}" for name in names]
        command = [sys.executable, "-m", "dev.faults", directory, count, "--seed=1", *chosen]
        begun.append(subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * len(SHORT), "".join(printed)
    rows = table.table([tmp_path / str(number) for number in range(len(SHORT))])
    assert rows[-1].split("|")[-5:-1] == [" 60 ", " 60 ", " 0 ", " 0 "], "\n".join(rows)
