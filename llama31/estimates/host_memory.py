"""Host memory that SAVE_ASYNC takes: the copy of the state that a checkpoint is written from."""

import math
from collections.abc import Iterator
from pathlib import Path

from llama31.common.units import size
from llama31.config.parallel_layout import Layout
from llama31.estimates import memory
from llama31.settings import Precision, Settings

OPTIMIZER = 12
"""Bytes per parameter: fp32 weight and Adam's two moments."""
CGROUPS = Path("/sys/fs/cgroup")


def of_rank(settings: Settings, vocab_size: int, rank: int) -> int:
    """Return the bytes of a rank's copy (`llama31.training.state_copy`).

    The first of the ranks that share an optimizer state has all of it, the others only their shard. Each has its share
    of the weights. Ranks are numbered as Megatron does: tensor-parallel ranks first, pipeline stages last.
    """
    sharing = Layout.of(settings).data_parallel_size * settings.context_parallel_size
    stage, within = divmod(rank, settings.tensor_parallel_size * sharing)
    count = memory.parameters(settings, vocab_size, stage)
    weight = 4 if settings.precision is Precision.fp32 else 2
    is_first = within < settings.tensor_parallel_size
    return math.ceil(count * (OPTIMIZER if is_first else OPTIMIZER / sharing) + count * weight / sharing)


def of_node(settings: Settings, vocab_size: int) -> int:
    """Return the bytes of the copies on the node that needs most."""
    ranks = settings.gpus_per_node
    nodes = [range(node * ranks, (node + 1) * ranks) for node in range(settings.nnodes)]
    return max(sum(of_rank(settings, vocab_size, rank) for rank in node) for node in nodes)


def available() -> int:
    """Return the bytes that processes like this one can still get here: the machine's, or those of its cgroup."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    limits = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if not line.startswith("0::/"):
            continue  # version 1
        inner = CGROUPS / line.removeprefix("0::/")
        for group in (inner, *inner.parents):
            limit = group / "memory.max"
            if group.is_relative_to(CGROUPS) and limit.is_file() and (text := limit.read_text().strip()) != "max":
                limits.append(int(text) - int((group / "memory.current").read_text()))
    return min(limits)


def lacking(settings: Settings, vocab_size: int) -> Iterator[str]:
    """Yield a line if this machine, where ranks will run, has too little memory for SAVE_ASYNC."""
    if not settings.save_async:
        return
    needed, there = of_node(settings, vocab_size), available()
    if needed > there:
        yield (
            f"SAVE_ASYNC=1: the copy of the state takes {size(needed)} of host memory, {size(there)} are available; "
            "SAVE_ASYNC=0 works"
        )
