"""The all-reduce between the ranks, each in a process of its own: what hangs there can be ended."""

import json
import os
import sys
from collections.abc import Iterator, Mapping

from llama31.common.reading import size
from llama31.config import devices
from llama31.doctor import limits, troubles
from llama31.doctor.context import ELSEWHERE, Context
from llama31.doctor.findings import Finding, ok
from llama31.launch import rank_command
from llama31.settings import Device

PROGRAM = "llama31.doctor.all_reduce"
GIVES_UP = 0.5  # share of the time after which torch, once it is imported, gives up by itself and says where


def check(context: Context) -> Iterator[Finding]:
    """NCCL between GPUs, gloo between CPU processes, with the bus bandwidth (`all_reduce.bus_bandwidth`)."""
    if devices.is_elsewhere(context.settings):
        yield ok(ELSEWHERE)
        return
    backend = "gloo" if devices.device(context.settings) is Device.cpu else "nccl"
    command = [*_starter(context), PROGRAM, backend, str(GIVES_UP * context.patience)]
    done = limits.output(command, context.patience, _environment(context))
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"rank"')]
    if not told:
        rank = context.place.rank if context.place else 0
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        told = [{"rank": rank, "error": said[-1]}]
    wrong = [rank for rank in told if "error" in rank]
    for rank in wrong:
        yield troubles.UNREDUCED.found(backend=backend, **rank)
    if wrong:
        return
    if not all(rank["right"] for rank in told):
        yield troubles.REDUCED_WRONG.found(backend=backend)
    world_size = context.place.size if context.place else context.settings.gpus_per_node
    if world_size == 1:
        yield ok(f"{backend} starts; one rank has no other to sum with")
        return
    slowest = min(rank["bandwidth"] for rank in told)
    yield ok(f"{backend}, {world_size} ranks, {size(told[0]['bytes'])}: bus bandwidth", slowest)


def _starter(context: Context) -> list[str]:
    """torchrun here; under srun each task is a rank itself."""
    if context.place:
        return [sys.executable, "-m"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={context.settings.gpus_per_node}", "-m"]


def _environment(context: Context) -> Mapping[str, str]:
    environment = rank_command.environment(context.settings, os.environ)
    if place := context.place:
        environment |= {"RANK": str(place.rank), "LOCAL_RANK": str(place.local_rank), "WORLD_SIZE": str(place.size)}
        environment |= {"MASTER_ADDR": place.address, "MASTER_PORT": str(place.port + 1)}
    return environment
