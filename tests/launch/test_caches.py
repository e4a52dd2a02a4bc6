"""Clearing the system's caches before a run on this machine; on Slurm: test_slurm_nodes.py."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import lacking
import oracle
import pytest
from runs import run_forked

from llama31.config import paths
from llama31.launch import caches
from llama31.run_dir import cache_log
from llama31.run_dir.events import BAD_INPUT
from llama31.settings import Settings

CLEARING = Settings(clear_caches=True)
FAILS = "echo 'a password is' >&2; echo required; exit 3"


def clear(run_dir: Path, settings: Settings) -> str:
    """As caches.clear; skips where this user cannot clear the caches."""
    failure = caches.clear(run_dir, settings)
    if failure and not settings.clear_caches_command:
        lacking.skip(f"the caches cannot be cleared here: {failure}")
    return failure


def test_the_default_command_clears_the_caches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that were read leave the page cache."""
    assert clear(tmp_path, CLEARING) == ""
    said = capsys.readouterr().out
    before, after = re.fullmatch(r".+: caches cleared, (\d+) MB of files before, (\d+) MB after\n", said).groups()
    assert int(after) <= int(before)
    assert cache_log.were_cleared(tmp_path, CLEARING)
    assert not cache_log.were_cleared(tmp_path, replace(CLEARING, nnodes=2)), "the other node has not"
    assert not cache_log.were_cleared(tmp_path, Settings())


def test_a_command_that_fails_is_one_line(tmp_path: Path) -> None:
    failure = clear(tmp_path, replace(CLEARING, clear_caches_command=FAILS))
    assert re.fullmatch(
        ".+: CLEAR_CACHES=1: the command failed with exit code 3: a password is required; "
        "set CLEAR_CACHES_COMMAND to one that works",
        failure,
    )
    assert not cache_log.were_cleared(tmp_path, CLEARING)


def test_nodes_that_did_not_report(tmp_path: Path) -> None:
    two = replace(CLEARING, nnodes=2)
    assert cache_log.failure(tmp_path).startswith("CLEAR_CACHES=1: not every node reported")
    line = f"n1{cache_log.CLEARED}1 MB of files before, 0 MB after\n"
    (tmp_path / paths.CACHES).write_text(line * 2)
    assert not cache_log.were_cleared(tmp_path, two), "one node twice"
    (tmp_path / paths.CACHES).write_text(line + line.replace("n1", "n2"))
    assert cache_log.were_cleared(tmp_path, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "logged"),
    [({}, False), ({"CLEAR_CACHES": 1, "CLEAR_CACHES_COMMAND": "true"}, True)],
    ids=["not asked for", "cleared"],
)
def test_the_mlperf_log_says_whether_they_were(
    given: dict[str, Any], logged: bool, settings_of_trained: dict[str, Any], tmp_path: Path
) -> None:
    run = run_forked({**settings_of_trained, "JOB_DIR": tmp_path, "STOP_AT_STEP": 1, **given})
    events = oracle.mlperf_events(run.run_dir / paths.MLPERF_LOG)
    assert [event["value"] for event in events if event["key"] == "cache_clear"] == [logged], run.printed


@pytest.mark.slow
def test_a_run_whose_caches_cannot_be_cleared_does_not_start(
    settings_of_trained: dict[str, Any], tmp_path: Path
) -> None:
    run = run_forked({**settings_of_trained, "JOB_DIR": tmp_path, "CLEAR_CACHES": 1, "CLEAR_CACHES_COMMAND": FAILS})
    assert run.exit_code == BAD_INPUT
    assert "exit code 3: a password is required; set CLEAR_CACHES_COMMAND" in run.outcome.reason
    assert not (run.run_dir / paths.MLPERF_LOG).exists()
    assert {path.name for path in (run.run_dir / paths.RANK_LOGS).iterdir()} == {"torchrun.log"}
