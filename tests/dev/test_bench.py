"""The benches of dev/bench/ start, and those of runs and loaders measure: a short version of each.

What gpu_step measures is in test_gpu_step.py. About a minute.
"""

import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from runs import REPOSITORY

from dev.bench import start, start_counts, watched_run
from llama31.run_dir import startup_log

BENCHES = [
    "convert_memory", "copy_data", "gpu_step", "growth", "index", "loader", "read_logs", "save", "start", "tokenize",
    "tokenize_versions", "train_step",
]  # fmt: skip


def bench(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"dev.bench.{name}", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_help(name: str) -> None:
    assert f"python3 -m dev.bench.{name}" in bench(name, "--help")


@pytest.mark.slow
def test_copies_take_turns(tmp_path: Path) -> None:
    lines = bench("copy_data", str(tmp_path / "a b"), "--megabytes", "8", "--rounds", "1").splitlines()
    assert [re.sub(r" +[\d.]+ s,.*", "", line) for line in lines[:2]] == ["ours", "cp, sync, sha256sum"]
    assert lines[2].startswith("seconds, ours / theirs: ") and len(lines) == 4


@pytest.mark.slow
def test_the_loaders_take_turns(tmp_path: Path) -> None:
    few = ("--documents", "40000", "--batches", "20", "--samples", "2000", "--rounds", "1")
    need, *rates, memory, with_workers = bench("loader", str(tmp_path / "a b"), *few).splitlines()
    assert "381,825 tokens/s" in need, "8 ranks of the fastest published system"
    assert [re.sub(r" +[\d,]+ tokens/s.*", "", rate) for rate in rates] == ["peer", "ours", "peer, 2", "ours, 2"]
    assert all(int(rate.split(" tokens/s")[0].split()[-1].replace(",", "")) > 0 for rate in rates)
    assert all(len(line.partition(": ")[2].split()) == 10 for line in (memory, with_workers))


@pytest.mark.slow
def test_training_steps_take_turns() -> None:
    shape, *loops, added = bench("train_step", "--rounds", "1", "--steps", "1", "SEQ_LENGTH=64").splitlines()
    assert shape.startswith("27.8 million parameters, 4 x 64 tokens, fp32")
    assert [loop.split()[0] for loop in loops] == ["peer", "bare", "ours"]
    assert re.fullmatch(r"data, NeMo, Lightning.* add -?[\d.]+ \(.*\) ms to bare, -?[\d.]+%", added)


@pytest.mark.slow
def test_saves_take_turns() -> None:
    quiet, titles, *modes = bench("save", "--rounds", "1", "--quiet", "2", "SIZE=tiny", "SEQ_LENGTH=32").splitlines()
    assert re.fullmatch(r"[\d.]+ s per quiet step", quiet) and "/ synchronous" in titles
    assert [mode.split()[0] for mode in modes] == ["synchronous", "ours", "peer"]


def test_parts_of_a_start_are_those_of_the_last_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = datetime.now(timezone.utc)
    for part in (startup_log.RANK, startup_log.CHECKED):
        startup_log.reached(part)
    printed = capsys.readouterr().out
    later = began + timedelta(seconds=5)
    (tmp_path / "rank-0.log").write_text(f"chatter\n{printed}")
    (tmp_path / "rank-1.log").write_text(
        f"{later.isoformat(timespec='milliseconds')}{startup_log.MARK}{startup_log.RANK}\n"
    )
    found = watched_run.parts(tmp_path, began)
    assert set(found) == {startup_log.RANK, startup_log.CHECKED}
    assert found[startup_log.RANK] == pytest.approx(5, abs=0.01) and 0 <= found[startup_log.CHECKED] < 5
    assert start.took({startup_log.RANK: 2.0, startup_log.CHECKED: 2.5}) == {
        startup_log.RANK: 2.0,
        startup_log.CHECKED: 0.5,
    }


def test_modules_and_file_calls_are_counted(tmp_path: Path) -> None:
    log = b"import time:       100 |        100 |   encodings\nimport time: self [us] | cumulative\nchatter\n"
    assert start_counts.modules(log + log) == 2
    assert start_counts.modules(log + b"... start: done\n" + log, "start: done") == 1
    calls = start_counts.file_calls([sys.executable, "-c", "import json"], tmp_path / "calls")
    assert calls is None or 100 < calls < 10_000, "None where strace is missing"
