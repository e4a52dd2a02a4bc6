"""A rank's child processes end with it, even if it is killed by SIGKILL. About 30 s."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import REPOSITORY, SUPPORT, TIMEOUT, arguments, environment, forked_command

from llama31.run_dir import record

ENDS_WITHIN = 30  # seconds; usually a fraction of one
ENVIRONMENT = {**environment(), "PYTHONPATH": str(REPOSITORY)}
PARENT = SUPPORT / "process_with_children.py"


def kill(process: psutil.Process, *, expected: int) -> None:
    """Kills a process by SIGKILL; its descendants, of which there are at least `expected`, must end with it."""
    below = {child.pid: " ".join(child.cmdline()) for child in process.children(recursive=True)}
    assert len(below) >= expected, below
    ends = {os.pidfd_open(pid): pid for pid in below}  # readable once the process has ended, also after reparenting
    process.kill()
    deadline = time.monotonic() + ENDS_WITHIN
    while ends and time.monotonic() < deadline:
        for end in select.select([*ends], [], [], deadline - time.monotonic())[0]:
            del below[ends.pop(end)]
            os.close(end)
    for end in ends:
        signal.pidfd_send_signal(end, signal.SIGKILL)
        os.close(end)
    assert not below, f"still there {ENDS_WITHIN} s after process {process.pid} was killed: {below}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forks of a fork", "forks of a spawn", "data loader"])
def test_children_of_a_process_end_with_it(kind: str) -> None:
    process = subprocess.Popen([sys.executable, PARENT, kind], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        kill(psutil.Process(process.pid), expected=2)
    finally:
        process.kill()
        process.communicate()


def test_a_child_of_a_thread_outlives_the_thread() -> None:
    """The kernel would kill it when the thread ends, which is no reason to."""
    command = [sys.executable, PARENT, "thread"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout) == (0, "ready\nexit code 7\n"), done.stderr


@pytest.fixture
def start(
    settings_of_trained: dict[str, Any], tmp_path: Path
) -> Iterator[Callable[..., tuple[subprocess.Popen, Callable[[], psutil.Process]]]]:
    """Start runs that save after each step; yields a function that returns the launcher and a lookup of its rank."""
    started = []

    def start(script: Path, **exported: str) -> tuple[subprocess.Popen, Callable[[], psutil.Process]]:
        settings = {**settings_of_trained, "JOB_DIR": tmp_path / "runs", "SAVE_CKPT": 1, "SAVE_EVERY": 1}
        command = forked_command(script, *arguments({**settings, "CONTINUAL_CKPT": tmp_path / "chain"}))
        launcher = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**ENVIRONMENT, **exported},
        )
        started.append(launcher)
        return launcher, lambda: psutil.Process(record.load_saver(tmp_path / "runs" / "latest"))

    yield start
    for launcher in started:
        if launcher.poll() is None:  # a failed test; without the launcher, torchrun would keep our pipe open
            if saver := record.load_saver(tmp_path / "runs" / "latest"):
                psutil.Process(saver).parent().kill()
            launcher.kill()
        launcher.communicate(timeout=TIMEOUT)


@pytest.mark.slow
def test_nothing_is_left_between_two_saves(start: Callable[..., Any]) -> None:
    """Megatron's server for the results of its writers is there from the first save on; torchrun is killed, too."""
    launcher, rank = start(REPOSITORY / "pretrain_llama31.py")
    said = []
    for line in launcher.stdout:
        said.append(line)
        if line.startswith("saved after step 1:"):
            break
    else:
        pytest.fail("".join(said))
    kill(rank().parent(), expected=3)
    launcher.communicate(timeout=TIMEOUT)
    assert launcher.returncode == 1


@pytest.mark.slow
def test_nothing_of_a_rank_is_left_within_a_save(tmp_path: Path, start: Callable[..., Any]) -> None:
    fifo = tmp_path / "stalled"
    os.mkfifo(fifo)
    writers: set[int] = set()
    with open(os.open(fifo, os.O_RDWR), "rb", buffering=0) as ids:  # select does not see what is in a buffer
        launcher, rank = start(SUPPORT / "stalled_writers.py", STALLED_AT=str(fifo))
        while len(writers) < 2:
            assert select.select([ids], [], [], TIMEOUT)[0], "the rank did not start its two writers"
            writers |= set(map(int, ids.read(select.PIPE_BUF).splitlines()))
    process = rank()
    assert writers <= {child.pid for child in process.children()}
    kill(process, expected=3)
    launcher.communicate(timeout=TIMEOUT)
    assert launcher.returncode == 1
    assert signal.SIGKILL.name in launcher_log(tmp_path)


def launcher_log(directory: Path) -> str:
    """Output of torchrun."""
    return (directory / "runs" / "latest" / "logs" / "torchrun.log").read_text()
