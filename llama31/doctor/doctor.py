"""The checks in their order, on one machine or on all nodes of a Slurm step, and what is printed of them."""

import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from llama31.common import training_packages
from llama31.common.errors import UserError
from llama31.config import devices
from llama31.config.resolve import resolve
from llama31.doctor import collectives, data, filesystems, gpus, limits, tools, troubles, versions
from llama31.doctor.context import GRACE, Context
from llama31.doctor.findings import Finding, Severity, failed, from_json, lines, ok, to_json
from llama31.doctor.group import Apart, Group, is_task, place
from llama31.launch import prepare

VERIFY_LIMIT = 7200.0  # seconds: enough for 170 GB at 25 MB/s


@dataclass(frozen=True)
class Check:
    """A thing to look at, by the first task, by one task on each node, or by every rank."""

    title: str
    work: Callable[[Context], Iterator[Finding]]
    by: Literal["first", "node", "rank"] = "node"
    limit: float | None = None
    """Seconds it may take, if not as many as the user says."""


def checks(context: Context, verify: bool) -> Iterator[Check]:
    """All that is to be looked at, in the order in which one failure explains the next."""
    several = context.place is not None
    if several:
        yield Check("nodes", _shape, by="first")
    yield Check("versions", versions.check)
    yield Check("GPUs", gpus.check)
    yield Check("inputs", data.look)
    yield Check("tokenizer", data.tokenizer)
    if several:
        yield Check("directories", filesystems.mark, by="first")
        yield Check("directories", filesystems.visible)
    yield Check("directories", filesystems.room)
    yield Check("directories", filesystems.speed)
    yield Check("tools", tools.check, by="first")
    yield Check("all-reduce", collectives.check, by="rank")
    if verify:
        yield Check("verify", data.verified, by="first", limit=VERIFY_LIMIT)


def doctor(arguments: Sequence[str], *, verify: bool, timeout: float) -> int:
    """Looks at all that a run with these arguments needs; gives the exit code, 1 if anything failed.

    Raises UserError for what is no setting. Of the tasks of a Slurm step the first one prints what all of them found.
    """
    here = place()
    if is_task():  # the nodes of this step are those of the run
        os.environ[devices.IN_JOB] = "1"
        if not os.environ.get("PARTITION"):  # config.sh exports it empty
            os.environ["PARTITION"] = os.environ.get("SLURM_JOB_PARTITION", "")
    try:
        settings = prepare.with_absolute_paths(resolve(arguments, os.environ)).settings
    except UserError:
        if here and here.rank:
            return 2  # the first task says why
        raise
    context = Context(settings, timeout, here)
    if not devices.is_through_ssh(settings):
        training_packages.require("doctor")
    try:
        with Group(here, timeout) as group:
            return examine(context, group, list(checks(context, verify)))
    except Apart as error:
        assert here, "a process alone has nobody to lose"
        apart = troubles.APART.found(node=here.node, address=here.address, port=here.port, error=error)
        print(*lines("nodes", {here.node: [apart]}), flush=True)
        return 1
    finally:
        if here and not here.rank:
            filesystems.unmark(context)


def examine(context: Context, group: Group, wanted: Sequence[Check]) -> int:
    """All checks, one after the other on all nodes together."""
    node = context.place.node if context.place else socket.gethostname()
    nodes: dict[int, str] = {}
    missing: set[int] = set()
    failures = 0
    for number, check in enumerate(wanted, 1):
        limit = check.limit or context.timeout
        looks = {"first": group.leads, "node": group.leads_node, "rank": True}[check.by]
        with _shown(f"{check.title}: {number} of {len(wanted)} checks", group.leads):
            found = to_json(_found(check, context, limit)) if looks else None
            answers = group.exchange([node, found], limit + GRACE)
        if not group.leads:
            continue
        nodes |= {rank: name for rank, (name, _) in answers.items()}
        lost = set(range(context.place.size if context.place else 1)) - answers.keys() - missing
        missing |= lost
        by_node = _by_node(answers)
        failures += sum(finding.severity is Severity.failed for found in by_node.values() for finding in found)
        for line in (*_lost(context, lost, nodes), *lines(check.title, by_node)):
            print(line, flush=True)
    return 1 if failures or missing else 0


def _found(check: Check, context: Context, limit: float) -> list[Finding]:
    """What a check finds; an exception is a failure of it."""
    found: list[Finding] = []

    def work() -> None:
        for finding in check.work(context):
            found.append(finding)

    try:
        limits.within(limit, work)
    except limits.TookTooLong as error:
        return [*found, troubles.HANGS.found(seconds=error.seconds, longer=2 * context.timeout)]
    except UserError as error:
        found += map(failed, error.lines)
    except Exception as error:  # noqa: BLE001 - one check's fault must not end the others
        found.append(troubles.RAISED.found(error=f"{type(error).__name__}: {error}"))
    return found


def _by_node(answers: Mapping[int, Any]) -> dict[str, list[Finding]]:
    """Node -> findings of its ranks; without the nodes that had nothing to look at."""
    by_node: dict[str, list[Finding]] = {}
    for name, findings in answers.values():
        if findings is not None:
            by_node.setdefault(name, []).extend(from_json(findings))
    return by_node


def _lost(context: Context, lost: Collection[int], nodes: Mapping[int, str]) -> Iterator[str]:
    """A line for the ranks that do not answer any more, or never did."""
    if context.place and lost:
        never = set(context.place.node_names) - set(nodes.values())
        names = {nodes[rank] for rank in lost if rank in nodes} or never
        finding = troubles.LOST.found(
            nodes=", ".join(sorted(names)),
            ranks=", ".join(map(str, sorted(lost))),
            address=context.place.address,
            port=context.place.port,
        )
        yield from lines("nodes", {context.place.node: [finding]})


def _shape(context: Context) -> Iterator[Finding]:
    """Whether srun started what a run would start."""
    place, settings = context.place, context.settings
    assert place
    tasks = settings.nnodes * settings.gpus_per_node
    if (place.nodes, place.size) == (settings.nnodes, tasks):
        yield ok(f"{place.nodes} nodes, {place.size} ranks")
        return
    yield troubles.SHAPE.found(
        tasks=place.size,
        nodes=place.nodes,
        settings=f"NNODES={settings.nnodes} GPUS_PER_NODE={settings.gpus_per_node}",
        wanted_nodes=settings.nnodes,
        wanted_tasks=settings.gpus_per_node,
    )


@contextmanager
def _shown(what: str, leads: bool) -> Iterator[None]:
    """Shows on a terminal what is looked at."""
    live = leads and sys.stderr.isatty()
    if live:
        print(f"\r\x1b[K{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
