"""Test the all-reduce between the ranks, in separate processes, so that a hanging one can be killed."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping

from llama31.common.units import size
from llama31.config import devices
from llama31.doctor import limits, troubles
from llama31.doctor.context import ON_NODES, Context
from llama31.doctor.findings import Finding, ok
from llama31.launch import rank_command
from llama31.settings import Device

PROGRAM = "llama31.doctor.all_reduce"
TORCH_SHARE = 0.5  # share of the limit after which torch itself times out, and says where


def check(context: Context) -> Iterator[Finding]:
    """Test NCCL between GPUs, or gloo between CPU processes, and measure the bus bandwidth (see `all_reduce`)."""
    if devices.is_elsewhere(context.settings):
        yield ok(ON_NODES)
        return
    backend = "gloo" if devices.device(context.settings) is Device.cpu else "nccl"
    command = [*_starter(context), PROGRAM, backend, str(TORCH_SHARE * context.command_timeout)]
    with tempfile.TemporaryDirectory() as directory:  # torchrun and the ranks leave files behind
        done = limits.output(
            command,
            context.command_timeout,
            {**_environment(context), "TMPDIR": directory, rank_command.STORE: f"{directory}/store"},
        )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]
    if not answers:
        rank = context.task.rank if context.task else 0
        errors = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        answers = [{"rank": rank, "error": errors[-1]}]
    if failed := [answer for answer in answers if "error" in answer]:
        yield from (troubles.ALL_REDUCE_FAILED.found(backend=backend, **answer) for answer in failed)
        return
    if not all(answer["right"] for answer in answers):
        yield troubles.ALL_REDUCE_WRONG.found(backend=backend)
    world_size = context.task.size if context.task else context.settings.gpus_per_node
    if world_size == 1:
        yield ok(f"{backend} starts; one rank has no others to sum with")
        return
    slowest = min(answer["bandwidth"] for answer in answers)
    yield ok(f"{backend}, {world_size} ranks, {size(answers[0]['bytes'])}: bus bandwidth", slowest)


def _starter(context: Context) -> list[str]:
    """Return the start of the command: torchrun, but under srun each task is a rank."""
    if context.task:
        return [sys.executable, "-m"]
    return [sys.executable, *rank_command.torchrun(context.settings.gpus_per_node), "-m"]


def _environment(context: Context) -> Mapping[str, str]:
    environment = rank_command.environment(context.settings, os.environ)
    if task := context.task:
        environment |= {"RANK": str(task.rank), "LOCAL_RANK": str(task.local_rank), "WORLD_SIZE": str(task.size)}
        environment |= {"MASTER_ADDR": task.address, "MASTER_PORT": str(task.port + 1)}
    return environment
