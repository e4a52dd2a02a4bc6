"""The tasks of a Slurm step in which the doctor runs, and how they tell each other what they found.

JSON lines over sockets to the first task, from the standard library alone: where torch is missing or a collective
hangs, this still says on which node.
"""

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PORTS = range(20_000, 30_000, 2)  # below those that Linux gives to outgoing connections
LAST_STEP = 0xFFFFFFF0
"""Of srun; numbers above it are those of a batch script or an interactive shell (slurm.h, SLURM_MAX_NORMAL_STEP_ID)."""
GREETING = 5  # seconds in which a task that connected says who it is


@dataclass(frozen=True)
class StepTask:
    """Where this process stands among the tasks of its step."""

    rank: int
    size: int
    """Tasks of the step."""
    local_rank: int
    """Number of this task on its node."""
    node: str
    node_names: tuple[str, ...]
    """Of the step, in Slurm's order."""
    step: str
    """job.step, the same for all tasks and no other."""
    port: int
    """For the doctor on the first node; the next one is for torch there."""

    @property
    def address(self) -> str:
        """The first node, where the first task runs."""
        return self.node_names[0]

    @property
    def nodes(self) -> int:
        """Nodes of the step."""
        return len(self.node_names)


def is_task(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether srun started this process, alone or among others; the batch script of a job is none."""
    step = environment.get("SLURM_STEP_ID", "")
    return "SLURM_PROCID" in environment and step.isdecimal() and int(step) <= LAST_STEP


def place(environment: Mapping[str, str] = os.environ) -> StepTask | None:
    """Where srun put this process among others; None where it is alone, which torchrun can give company."""
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
    """The names in a list as Slurm writes it: n[03-04,20],m1 -> n03 n04 n20 m1. Containers have no scontrol to ask."""
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


class Apart(Exception):
    """The tasks of the step cannot talk to each other; the message says why."""


class Group:
    """All tasks of the step, or this process alone; `exchange` is to be called by all, in the same order."""

    def __init__(self, place: StepTask | None, patience: float):
        """Connects to all others within `patience` seconds; who is not there by then is never heard of.

        Raises Apart where the first task cannot be reached, or its port is taken.
        """
        self.place = place
        self._peers: dict[int, _Peer] = {}
        deadline = time.monotonic() + patience
        try:
            if place and place.rank:
                self._peers[0] = _connected(place, deadline)
            elif place:
                self._accept(place, deadline)
        except OSError as error:
            raise Apart(str(error)) from error

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.place is None or self.place.rank == 0

    @property
    def leads_node(self) -> bool:
        """Whether this process looks at what the tasks of a node share."""
        return self.place is None or self.place.local_rank == 0

    def exchange(self, value: Any, patience: float) -> dict[int, Any]:
        """The first task gets the values of all ranks that answer within `patience` seconds, the others its value.

        Raises Apart where the first task is not heard of any more.
        """
        if not self.leads:
            try:
                self._peers[0].send(value)
                return {0: self._peers[0].receive(time.monotonic() + 2 * patience)}  # it may wait for another task
            except (OSError, ValueError) as error:
                raise Apart(str(error)) from error
        deadline = time.monotonic() + patience
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

    def _accept(self, place: StepTask, deadline: float) -> None:
        with socket.create_server(("", place.port), backlog=place.size) as server:
            while len(self._peers) < place.size - 1 and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                try:
                    peer = _Peer(server.accept()[0])
                    rank, step = peer.receive(time.monotonic() + GREETING)
                except (OSError, ValueError, TypeError):  # too late, or somebody who tries ports
                    continue
                if step == place.step:
                    self._peers[rank] = peer


def _connected(place: StepTask, deadline: float) -> "_Peer":
    """A connection to the first task, which may start later than this one."""
    while True:
        try:
            peer = _Peer(socket.create_connection((place.address, place.port), timeout=1))
            peer.send([place.rank, place.step])
            return peer
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class _Peer:
    """Another task, to which and from which values go as lines."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._received = b""

    def send(self, value: Any) -> None:
        self._connection.settimeout(GREETING)
        self._connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, deadline: float) -> Any:
        """The next value. Raises OSError where none comes in time, ValueError where it is none."""
        while b"\n" not in self._received:
            self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
            more = self._connection.recv(1 << 16)
            if not more:
                raise ConnectionError("the other task has ended")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        self._connection.close()
