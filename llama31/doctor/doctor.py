"""Run all checks in order, on one machine or on all nodes of a Slurm step, and print the findings."""

import os
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama31.common import training_packages
from llama31.common.errors import UserError
from llama31.config import devices
from llama31.config.resolve import resolve
from llama31.doctor import collectives, data, filesystems, gpus, limits, tools, troubles, versions
from llama31.doctor.context import GRACE, Context
from llama31.doctor.findings import Finding, Severity, failed, from_json, lines, ok, shown, to_json
from llama31.doctor.group import Disconnected, Group, is_task, step_task
from llama31.doctor.step_token import StepToken
from llama31.launch import prepare

VERIFY_LIMIT = 7200.0  # seconds: enough for 170 GB at 25 MB/s


@dataclass(frozen=True)
class Check:
    """A check, run by the first task, by one task on each node, or by every rank."""

    title: str
    work: Callable[[Context], Iterator[Finding]]
    by: Literal["first", "node", "rank"] = "node"
    limit: float | None = None  # seconds; None: --timeout


def checks(context: Context, verify: bool) -> Iterator[Check]:
    """Yield all checks, ordered so that a failure explains later ones."""
    in_step = context.task is not None
    if in_step:
        yield Check("nodes", _shape, by="first")
    yield Check("versions", versions.check)
    yield Check("GPUs", gpus.check)
    yield Check("inputs", data.inputs_of_run)
    yield Check("tokenizer", data.tokenizer)
    if in_step:
        yield Check("directories", filesystems.mark, by="first")
        yield Check("directories", filesystems.visible)
    yield Check("directories", filesystems.room)
    yield Check("directories", filesystems.speed)
    yield Check("tools", tools.check, by="first")
    yield Check("all-reduce", collectives.check, by="rank")
    if verify:
        yield Check("verify", data.verified, by="first", limit=VERIFY_LIMIT)


def doctor(arguments: Sequence[str], *, verify: bool, timeout: float) -> int:
    """Check everything that a run with these arguments needs; return 1 if anything failed, else 0.

    Raises UserError for invalid settings. In a Slurm step the first task prints the findings of all.
    """
    here = step_task()
    if is_task():  # the step has the nodes of the run
        os.environ[devices.IN_JOB] = "1"
        if not os.environ.get("PARTITION"):  # config.sh exports it empty
            os.environ["PARTITION"] = os.environ.get("SLURM_JOB_PARTITION", "")
    try:
        settings = prepare.with_absolute_paths(resolve(arguments, os.environ)).settings
    except UserError:
        if here and here.rank:
            return 2  # the first task prints the error
        raise
    context = Context(settings, timeout, here)
    if not devices.is_through_ssh(settings):
        training_packages.require("doctor")
    try:
        with Group(here, timeout, StepToken(Path(settings.job_dir), here.step) if here else None) as group:
            context.unproven = group.unproven
            return examine(context, group, list(checks(context, verify)))
    except Disconnected as error:
        assert here, "a single process has no connections"
        finding = troubles.DISCONNECTED.found(node=here.node, address=here.address, port=here.port, error=error)
        print(*lines("nodes", {here.node: [finding]}), flush=True)
        return 1
    finally:
        if here and not here.rank:
            filesystems.unmark(context)


def examine(context: Context, group: Group, wanted: Sequence[Check]) -> int:
    """Run all checks in order, each on all nodes at the same time."""
    node = context.task.node if context.task else socket.gethostname()
    nodes: dict[int, str] = {}
    missing: set[int] = set()
    failures = 0
    for number, check in enumerate(wanted, 1):
        limit = check.limit or context.timeout
        is_mine = {"first": group.leads, "node": group.leads_node, "rank": True}[check.by]
        with _shown(f"{check.title}: {number} of {len(wanted)} checks", group.leads):
            found = to_json(_found(check, context, limit)) if is_mine else None
            answers = group.exchange([node, found], limit + GRACE)
        if not group.leads:
            continue
        understood = {rank: answer for rank, value in answers.items() if (answer := _understood(value))}
        nodes |= {rank: name for rank, (name, _) in understood.items()}
        lost = set(range(context.task.size if context.task else 1)) - understood.keys() - missing
        missing |= lost
        by_node: dict[str, list[Finding]] = {}  # without nodes that did not run the check
        for name, findings in understood.values():
            if findings is not None:
                by_node.setdefault(name, []).extend(findings)
        failures += sum(finding.severity is Severity.failed for found in by_node.values() for finding in found)
        for line in (*_lost(context, lost, nodes), *lines(check.title, by_node)):
            print(line, flush=True)
    return 1 if failures or missing else 0


def _understood(answer: Any) -> tuple[str, list[Finding] | None] | None:
    """Return a task's node and findings, None for tasks that did not run the check; None if it sent something else."""
    try:
        name, values = answer
        return shown(name), None if values is None else from_json(values)
    except (TypeError, ValueError):
        return None


def _found(check: Check, context: Context, limit: float) -> list[Finding]:
    """Return the findings of a check; an exception is a failure."""
    found: list[Finding] = []
    try:
        limits.within(limit, lambda: found.extend(check.work(context)))
    except limits.TookTooLong as error:
        return [*found, troubles.HANGS.found(seconds=error.seconds, longer=2 * context.timeout)]
    except UserError as error:
        found += map(failed, error.lines)
    except Exception as error:  # noqa: BLE001 - the other checks must run
        found.append(troubles.EXCEPTION.found(error=f"{type(error).__name__}: {error}"))
    return found


def _lost(context: Context, lost: Collection[int], nodes: Mapping[int, str]) -> Iterator[str]:
    """Yield a line for ranks that stopped answering, or never did."""
    if context.task and lost:
        never = set(context.task.node_names) - set(nodes.values())
        names = {nodes[rank] for rank in lost if rank in nodes} or never
        finding = troubles.NO_ANSWER.found(
            nodes=", ".join(sorted(names)),
            ranks=", ".join(map(str, sorted(lost))),
            address=context.task.address,
            port=context.task.port,
        )
        yield from lines("nodes", {context.task.node: [finding]})


def _shape(context: Context) -> Iterator[Finding]:
    """Check that srun started as many tasks as a run would, and that they have recognized each other."""
    task, settings = context.task, context.settings
    assert task
    nodes = len(task.node_names)
    if context.unproven:
        yield troubles.UNPROVEN.found(ranks=", ".join(map(str, sorted(context.unproven))), job_dir=settings.job_dir)
    if (nodes, task.size) == (settings.nnodes, settings.nnodes * settings.gpus_per_node):
        yield ok(f"{nodes} nodes, {task.size} ranks")
        return
    yield troubles.WRONG_SHAPE.found(
        tasks=task.size,
        nodes=nodes,
        settings=f"NNODES={settings.nnodes} GPUS_PER_NODE={settings.gpus_per_node}",
        wanted_nodes=settings.nnodes,
        wanted_tasks=settings.gpus_per_node,
    )


@contextmanager
def _shown(what: str, leads: bool) -> Iterator[None]:
    """Show the current check on a terminal."""
    live = leads and sys.stderr.isatty()
    if live:
        print(f"\r\x1b[K{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
