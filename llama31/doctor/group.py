"""Communication between the tasks of a Slurm step that runs the doctor.

JSON lines over sockets to the first task, using only the standard library: if torch is missing or a collective hangs,
this can still report on which node. The first task accepts only tasks that know the step's secret (`step_token`). One
that cannot see it is accepted if its address is that of a node of the step; the doctor says so.
"""

import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llama31.doctor.peer import Peer, greet, introduce
from llama31.doctor.step_token import StepToken

PORTS = range(20_000, 30_000, 2)  # below Linux's ephemeral ports
LAST_STEP = 0xFFFFFFF0
"""Highest step id of srun; higher ones are batch scripts and interactive shells (slurm.h, SLURM_MAX_NORMAL_STEP_ID)."""
POLL = 0.1  # seconds
GREETED_AT_ONCE = 64  # connections, so that silent ones do not delay the others


@dataclass(frozen=True)
class StepTask:
    """This process among the tasks of its Slurm step."""

    rank: int
    size: int  # number of tasks in the step
    local_rank: int
    node: str
    node_names: tuple[str, ...]  # of the step, in Slurm's order
    step: str  # job.step, unique
    port: int
    """Port of the doctor on the first node; torch uses the next one."""

    @property
    def address(self) -> str:
        """The first node, which runs the first task."""
        return self.node_names[0]

    @cached_property
    def addresses(self) -> frozenset[str]:
        """All addresses of the step's nodes."""
        found: set[str] = set()
        for name in self.node_names:
            with suppress(OSError):
                found.update(str(entry[4][0]) for entry in socket.getaddrinfo(name, None))
        return frozenset(found)


def is_task(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether srun started this process; a job's batch script does not count."""
    step = environment.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in environment and step.isdecimal() and int(step) <= LAST_STEP


def step_task(environment: Mapping[str, str] = os.environ) -> StepTask | None:
    """Return this process's task; None outside of srun or if it is the only task, which torchrun can multiply."""
    size = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1 or not is_task(environment):
        return None
    job, step = environment["SLURM_JOB_ID"], environment["SLURM_STEP_ID"]
    return StepTask(
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment["SLURM_LOCALID"]),
        node=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        node_names=tuple(expanded(environment["SLURM_STEP_NODELIST"])),
        step=f"{job}.{step}",
        port=PORTS[(int(job) + int(step)) % len(PORTS)],
    )


def expanded(nodes: str) -> Iterator[str]:
    """Expand Slurm's node list, n[03-04,20],m1 -> n03 n04 n20 m1, without scontrol, which containers lack."""
    for name in re.split(r",(?![^[]*\])", nodes):
        before, bracket, rest = name.partition("[")
        if not bracket:
            yield name
            continue
        numbers, _, after = rest.partition("]")
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                yield from expanded(f"{before}{number:0{len(first)}}{after}")


class Disconnected(Exception):
    """The tasks of the step cannot communicate; the message says why."""


class Group:
    """All tasks of the step, or a single process; all must call `exchange` in the same order."""

    def __init__(self, task: StepTask | None, timeout: float, token: StepToken | None = None):
        """Connect to the other tasks within `timeout` seconds; later ones are ignored.

        Raises Disconnected if the first task cannot be reached, or its port is in use.
        """
        self.task = task
        self.unproven: set[int] = set()
        """Ranks that were accepted for their address only: they and the first task have no secret in common."""
        self._peers: dict[int, Peer] = {}
        self._is_complete = False
        self._lock = threading.Lock()
        deadline = time.monotonic() + timeout
        try:
            if task and task.rank:
                self._peers[0] = _connected(task, deadline, token)
            elif task:
                self._accept(task, deadline, token)
        except OSError as error:
            raise Disconnected(str(error)) from error

    @property
    def leads(self) -> bool:
        """Whether this is the first task, which prints."""
        return self.task is None or self.task.rank == 0

    @property
    def leads_node(self) -> bool:
        """Whether this task runs the checks of its node."""
        return self.task is None or self.task.local_rank == 0

    def exchange(self, value: Any, timeout: float) -> dict[int, Any]:
        """Return the values of all ranks to the first task, and the first task's value to the others.

        The first task waits `timeout` seconds for each value, and drops ranks that do not answer. Raises Disconnected
        if the first task does not answer.
        """
        if not self.leads:
            try:
                self._peers[0].send(value)
                return {0: self._peers[0].receive(time.monotonic() + 2 * timeout)}  # it may wait for others
            except (OSError, ValueError) as error:
                raise Disconnected(str(error)) from error
        deadline = time.monotonic() + timeout
        found = {0: value}
        for rank, peer in sorted(self._peers.items()):
            try:
                found[rank] = peer.receive(deadline)
                peer.send(value)
            except (OSError, ValueError):
                self._peers.pop(rank).close()
        return found

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers.values():
            peer.close()

    def _accept(self, task: StepTask, deadline: float, token: StepToken | None) -> None:
        secret = token.create() if token else ""
        try:
            with socket.create_server(("", task.port), backlog=task.size + GREETED_AT_ONCE) as server:
                server.settimeout(POLL)  # while it waits, the last one may be greeted
                threads = ThreadPoolExecutor(GREETED_AT_ONCE)
                while len(self._peers) < task.size - 1 and time.monotonic() < deadline:
                    try:
                        threads.submit(self._greet, task, server.accept()[0], secret)
                    except TimeoutError:
                        pass
                    except OSError:  # too many are open, until silent ones are closed
                        time.sleep(POLL)
                threads.shutdown(wait=False, cancel_futures=True)
        finally:
            with self._lock:
                self._is_complete = True
            if token:
                token.remove()

    def _greet(self, task: StepTask, connection: socket.socket, secret: str) -> None:
        try:
            peer = Peer(connection)
            rank, is_proven = greet(peer, task.step, task.size, secret)
            if not is_proven and peer.address not in task.addresses:
                raise ValueError("from another node")
        except (OSError, ValueError):  # too late, or a port scan
            connection.close()
            return
        with self._lock:
            is_double = rank in self._peers and not (is_proven and rank in self.unproven)
            if is_double or self._is_complete:
                peer.close()
                return
            if rank in self._peers:
                self._peers[rank].close()
            self._peers[rank] = peer
            (self.unproven.discard if is_proven else self.unproven.add)(rank)


def _connected(task: StepTask, deadline: float, token: StepToken | None) -> Peer:
    """Connect to the first task, which may start later than this one."""
    while True:
        try:
            peer = Peer(socket.create_connection((task.address, task.port), timeout=1))
            try:
                introduce(peer, task.step, task.rank, token.find() if token else "")
            except (OSError, ValueError):
                peer.close()
                raise
            return peer
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise error if isinstance(error, OSError) else ConnectionError(str(error)) from error
            time.sleep(0.1)
