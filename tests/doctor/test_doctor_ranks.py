"""`doctor` and the ranks: whether they reach each other, and what the tasks of a step tell each other."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from checkout import REPOSITORY
from doctor_checks import context, texts
from runs import arguments, environment

from llama31.doctor import all_reduce, collectives, limits
from llama31.doctor.group import Disconnected, Group, StepTask, is_task, step_task

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def two_tasks(rank: int, port: int) -> StepTask:
    return StepTask(rank, 2, 0, f"n{rank + 1}", ("localhost", "n2"), "1.0", port)


def test_a_peer_that_never_comes(usual: dict[str, str]) -> None:
    """The first of two ranks waits for the second until it times out, or is killed while it imports torch."""
    here = context(usual, timeout=2, task=two_tasks(0, free_port()))
    with pytest.raises(limits.TookTooLong, match="no answer within 1 s"):
        list(collectives.check(here))
    patient = context(usual, timeout=20, task=two_tasks(0, free_port()))
    try:
        (line,) = texts(collectives.check(patient))
    except limits.TookTooLong as late:  # a machine that takes half the time to import torch
        line = str(late)
    assert re.match(r"gloo failed on rank 0: Dist\w*Error: |no answer within 10 s", line), line


def test_ranks_that_cannot_meet(usual: dict[str, str]) -> None:
    """Their port is already in use."""
    with socket.create_server(("", 0)) as taken:
        port = int(taken.getsockname()[1])
        (line,) = texts(collectives.check(context(usual, task=two_tasks(0, port - 1))))
    assert re.match(r"gloo failed on rank 0: Dist\w*Error: .*address already in use", line, re.I), line


def test_bus_bandwidth() -> None:
    """nccl-tests' own example: an all-reduce over 8 ranks moves 1.75 times the size over each link."""
    assert all_reduce.bus_bandwidth(10**9, seconds=1, ranks=8) == 1.75e9
    assert all_reduce.bus_bandwidth(10**9, seconds=2, ranks=2) == 0.5e9


# --- Tasks of a step ----------------------------------------------------------------------------------------------


ALONE = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}


def test_no_other_tasks_outside_a_step_of_several() -> None:
    batch = {"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    for given in ({}, ALONE, batch, {**batch, "SLURM_STEP_ID": str(0xFFFFFFFB), "SLURM_STEP_NUM_TASKS": "8"}):
        assert step_task(given) is None
        assert is_task(given) is (given is ALONE)


def test_the_only_task_of_a_step_looks_at_the_ranks_of_its_node(usual: dict[str, str]) -> None:
    """config.sh, sourced where srun is called, exports PARTITION: the run takes place here all the same."""
    command = [sys.executable, "-m", "llama31", "doctor", *arguments({**usual, "GPUS_PER_NODE": "2"})]
    step = {**environment(), **ALONE, "PARTITION": "debug"}
    done = subprocess.run(command, cwd=REPOSITORY, env=step, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gloo, 2 ranks, " in done.stdout


def test_tasks_talk_though_others_knock() -> None:
    """Another program that connects to the port is not mistaken for a task; a task that ends is reported missing."""
    port = free_port()
    answers: list[Any] = []

    def second() -> None:
        with Group(two_tasks(1, port), 20) as group:
            answers.append(group.exchange("two", 20))

    def stranger() -> None:
        with socket.create_connection(("localhost", port), 20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")

    first: list[Group] = []
    opened = threading.Thread(target=lambda: first.append(Group(two_tasks(0, port), 20)))
    opened.start()
    _until_listened_to(stranger)
    other = threading.Thread(target=second)
    other.start()
    opened.join()
    with first[0] as group:
        assert group.exchange("one", 20) == {0: "one", 1: "two"}
        other.join()
        assert answers == [{0: "one"}]
        assert group.exchange("still", 20) == {0: "still"}
    with pytest.raises(Disconnected, match="refused"):
        Group(two_tasks(1, port), 0)


def _until_listened_to(connect: Callable[[], None]) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            return connect()
        except ConnectionRefusedError:
            assert time.monotonic() < end
