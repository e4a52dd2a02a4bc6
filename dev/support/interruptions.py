"""Interrupt a job on a real Slurm of two nodes, in every way a cluster can."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from dev.support.slurm_cluster import ENDED
from dev.support.submitted import Submitted

SIGNAL_BEFORE_END = 20  # seconds; the setting of the jobs


CUT_NETWORK = "network cut"
"""The way that needs a cluster with networks."""


def interrupt(run: Submitted, job: str, restarts: int, way: str, chance: random.Random) -> None:
    """Interrupt a job that trains in one of the WAYS, and wait until it has ended or is queued again."""
    WAYS[way](run, job, restarts, chance)
    run.cluster.until(f"job {job} has ended", lambda: run.cluster.state(job) in ENDED or run.restarts(job) > restarts)


def _time_limit(run: Submitted, job: str, restarts: int, chance: random.Random) -> None:
    run.limit(job, SIGNAL_BEFORE_END + 5)
    with run.held(run.ranks(job).values()):
        run.warned(job, restarts)


def _scancel(run: Submitted, job: str, restarts: int, chance: random.Random) -> None:
    run.cluster.ask("scancel", job)


def _lost_node(run: Submitted, job: str, restarts: int, chance: random.Random) -> None:
    node = chance.choice(("n1", "n2"))
    run.cluster.lose(node, job)
    run.cluster.until(f"job {job} is off the nodes", lambda: run.cluster.state(job) in ("PENDING", *ENDED))
    run.cluster.bring_back(node)


def _cut_network(run: Submitted, job: str, restarts: int, chance: random.Random) -> None:
    """Cut a node off until all ranks have ended, HANG_MINUTES later."""
    ranks = run.ranks(job).values()
    with run.cluster.cut(chance.choice(("n1", "n2"))):
        run.cluster.until(
            f"the ranks of job {job} end", lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks)
        )


def _signal_of(signum: signal.Signals) -> Callable[[Submitted, str, int, random.Random], None]:
    def send(run: Submitted, job: str, restarts: int, chance: random.Random) -> None:
        os.kill(chance.choice(list(run.ranks(job).values())), signum)

    return send


WAYS = {
    "time limit": _time_limit,
    "scancel": _scancel,
    "lost node": _lost_node,
    CUT_NETWORK: _cut_network,
    "SIGKILL of a rank": _signal_of(signal.SIGKILL),
    "SIGTERM to a rank": _signal_of(signal.SIGTERM),
}
