"""Megatron in a single process on the CPU, without a launcher."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core import parallel_state

from llama31.model.cpu_backend import cpu_backend


@contextmanager
def one_rank() -> Iterator[None]:
    """Make this process Megatron's only rank, on the CPU, within this context."""
    with cpu_backend():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            parallel_state.initialize_model_parallel()
            yield
        finally:
            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()
