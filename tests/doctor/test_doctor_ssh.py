"""`doctor` from a laptop: HOST is asked for the paths and the Slurm that are its own."""

import os
import shlex
from pathlib import Path

import pytest
from runs import arguments

from llama31.doctor import doctor

# --- HOST ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directory with all that a laptop finds: an ssh that reaches a login node, whose Slurm has a partition `debug`."""
    bin_, home = tmp_path / "bin", tmp_path / "home"
    for directory in (bin_, home):
        directory.mkdir()
    write_script(home / "sinfo", "echo 'debug|n/a|infinite'")
    (home / ".bash_profile").write_text(f"PATH={shlex.quote(f'{home}:{os.defpath}')}\n")
    write_script(
        bin_ / "ssh", f'for last; do :; done\nPATH={os.defpath} HOME={shlex.quote(str(home))} exec sh -c "$last"'
    )
    monkeypatch.setenv("PATH", str(bin_))
    return bin_


def write_script(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def from_laptop(usual: dict[str, str], capsys: pytest.CaptureFixture[str], **given: str) -> tuple[int, list[str]]:
    """Exit code and lines of the verb, for a run whose paths only the cluster knows."""
    host = {"PARTITION": "debug", "HOST": "login", "CODE_PATH": "/nowhere/code"}
    paths = {"PREPROCESSED_PATH": "/nowhere/data", "TOKENIZER_PATH": "/nowhere/tokenizer", "JOB_DIR": "/nowhere/runs"}
    code = doctor.doctor(arguments({**usual, **host, **paths, **given}), verify=True, timeout=60)
    return code, capsys.readouterr().out.splitlines()


def test_files_on_the_host_are_checked_there(
    laptop: Path, usual: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = from_laptop(usual, capsys)
    assert code == 1
    assert [line for line in said if not line.startswith("ok ")] == [
        f"failed   tools:        {line}"
        for line in (
            "PREPROCESSED_PATH=/nowhere/data: not on login; name the directory on that machine",
            "TOKENIZER_PATH=/nowhere/tokenizer: not on login; name the directory on that machine",
            "CODE_PATH=/nowhere/code: not on login; name the directory of this repository there",
        )
    ]
    for title in ("versions", "inputs", "directories", "verify"):
        lines = [line for line in said if f" {title}: " in line]
        assert len(lines) == 1 and "not checked here: the paths are on HOST" in lines[0], said


def test_relative_paths_mean_nothing_to_host(
    laptop: Path, usual: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = from_laptop(usual, capsys, JOB_DIR="runs")
    assert "failed   inputs:       JOB_DIR=runs: with HOST, write the absolute path on login" in said


@pytest.mark.parametrize(
    ("script", "remedy"),
    [
        (None, "this machine has no ssh; install it"),
        ("echo 'ssh: Could not resolve hostname login' >&2; exit 255", "`ssh login` must work without a prompt"),
        ("exit 127", "sinfo on login is not found; name a machine that has it"),
    ],
)
def test_ssh_that_fails_is_not_slurms_fault(
    script: str | None, remedy: str, laptop: Path, usual: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (laptop / "ssh").unlink()
    if script:
        write_script(laptop / "ssh", script)
    code, said = from_laptop(usual, capsys)
    failures = [line for line in said if not line.startswith("ok ")]
    assert code == 1 and len(failures) == 1 and failures[0].startswith("failed   tools:        HOST: "), said
    assert remedy in failures[0] and "administrators" not in failures[0]
