"""A torchrun that was started early starts ranks as torchrun itself does, and ends with a launcher that needs none."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import REPOSITORY, TIMEOUT, environment

from llama31.launch import torchrun
from llama31.launch.torchrun import Early

RANKS = 2
ENVIRONMENT = {**environment(), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
DRAWN = "drawn"
RANK = f"""
import json, multiprocessing, os, sys
from pathlib import Path
is_forked = "torch" in sys.modules
import numpy, torch

def is_held(file):
    return any(os.path.samefile(open_file, file) for open_file in Path("/proc/self/fd").iterdir() if open_file.exists())

def child():
    Path(sys.argv[1], "child-" + os.environ["RANK"]).touch()

if __name__ == "__main__":
    directory, code = sys.argv[1:]
    spawned = multiprocessing.get_context("spawn").Process(target=child)
    spawned.start()
    spawned.join()
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "OMP_NUM_THREADS"]
    said = {{
        "arguments": sys.argv, "path": sys.path, "environment": sorted(os.environ), "is_forked": is_forked,
        "values": [os.environ[name] for name in names[:-2]], "threads": torch.get_num_threads(),
        "interrupts": repr(__import__("signal").getsignal(2)), "leads": os.getsid(0) == os.getpid(),
        "holds": is_held(Path(directory, "held")), "child": spawned.exitcode, {DRAWN!r}: numpy.random.rand(),
    }}
    Path(directory, "rank-" + os.environ["RANK"]).write_text(json.dumps(said))
    while int(code) and not Path(directory, "rank-0").exists():  # torchrun ends the others when one fails
        pass
    sys.exit(int(code) * int(os.environ["RANK"]))
"""


def start(directory: Path, code: int, early: Early | None) -> tuple[int, str, list[dict[str, Any]]]:
    """Exit code and log of a torchrun, and what its ranks said; rank 1 exits with a code."""
    directory.mkdir()
    script = directory.with_name("rank.py")
    script.write_text(RANK)
    command = [*torchrun.command(RANKS, directory / "logs"), str(script), str(directory), str(code)]
    log = directory / "log"
    with log.open("wb") as errors, (directory / "held").open("w") as held:
        process = torchrun.start(command, ENVIRONMENT, directory / "store", errors, held, early)
    returncode = process.wait(TIMEOUT)
    said = [json.loads((directory / f"rank-{rank}").read_text()) for rank in range(RANKS)]
    assert {f"child-{rank}" for rank in range(RANKS)} <= {path.name for path in directory.iterdir()}, log.read_text()
    return returncode, log.read_text(), said


@pytest.mark.slow
def test_forked_ranks_are_as_torchrun_starts_them(tmp_path: Path) -> None:
    with Early(RANKS, ENVIRONMENT) as early:
        code, log, forked = start(tmp_path / "early", 3, early)
    stock_code, stock_log, stock = start(tmp_path / "stock", 3, None)
    assert code == stock_code == 1
    for text in (log, stock_log):
        assert "exitcode  : 3" in text, text
    assert len({rank.pop(DRAWN) for rank in forked}) == RANKS, "each has random numbers of its own"
    for ours, theirs in zip(forked, stock, strict=True):
        del theirs[DRAWN]
        assert ours.pop("is_forked") and not theirs.pop("is_forked")
        assert ours.pop("arguments")[0] == theirs.pop("arguments")[0]
        assert ours == theirs
    assert not early.waits


@pytest.mark.slow
def test_another_environment_or_a_second_run_has_its_own_torchrun(tmp_path: Path) -> None:
    with Early(RANKS, {**ENVIRONMENT, "MORE": "1"}) as early:
        _, _, ranks = start(tmp_path / "other", 0, early)
        assert early.waits
    assert not any(rank["is_forked"] for rank in ranks)


def test_it_ends_with_a_launcher_that_does_not_need_it() -> None:
    with Early(RANKS, ENVIRONMENT) as early:
        process = early._process
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_it_ends_with_a_launcher_that_was_killed() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", torchrun.EARLY, str(theirs.fileno())]
        process = subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, pass_fds=[theirs.fileno()])
    ours.close()
    assert process.wait(TIMEOUT) == 0
