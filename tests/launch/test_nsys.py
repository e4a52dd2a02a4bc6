"""PROFILE=nsys: which ranks run under Nsight Systems, and with which command. A script replaces nsys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import REPOSITORY

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.launch import nsys
from llama31.run_dir import record
from llama31.settings import Device, Profiler, Settings

WANTED = Settings(profile=Profiler.nsys, profile_ranks="1 3", device=Device.cuda)


@pytest.fixture
def path_with_nsys(tmp_path: Path) -> str:
    """A PATH whose nsys prints its arguments and the mark that keeps a rank from calling it again."""
    program = tmp_path / "bin" / "nsys"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@"\necho "${nsys.UNDER_NSYS}"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def rank(number: str, run_dir: Path, path: str, **more: str) -> str:
    """What a process that is about to become a rank prints."""
    code = "import sys; from pathlib import Path; from llama31.launch import nsys; nsys.enter(Path(sys.argv[1])); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print('trains')", run_dir],
        cwd=REPOSITORY, env={**os.environ, "PATH": path, "RANK": number, **more},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_only_the_ranks_that_were_asked_for(tmp_path: Path, path_with_nsys: str) -> None:
    record.store_settings(tmp_path, WANTED)
    assert rank("0", tmp_path, path_with_nsys) == "trains\n"
    command, mark = rank("3", tmp_path, path_with_nsys).splitlines()
    report = tmp_path / paths.PROFILE / "rank-3"
    assert command.startswith("profile ") and f"--output={report} {sys.executable} " in command
    assert {"--capture-range=cudaProfilerApi", "--trace=cuda,nvtx"} <= set(command.split())
    assert mark == "1"
    assert rank("3", tmp_path, path_with_nsys, **{nsys.UNDER_NSYS: "1"}) == "trains\n", "the rank under nsys"


def test_other_profilers_do_not_call_it(tmp_path: Path, path_with_nsys: str) -> None:
    record.store_settings(tmp_path, Settings(profile=Profiler.torch))
    assert rank("0", tmp_path, path_with_nsys) == "trains\n"


def test_a_missing_program_is_refused(tmp_path: Path, path_with_nsys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^PROFILE=nsys: no nsys on this machine; install Nsight Systems, or PROFILE="):
        nsys.require(WANTED)
    nsys.require(Settings())
    monkeypatch.setenv("PATH", path_with_nsys)
    nsys.require(WANTED)
