"""A process group of one rank with Megatron's parallel state, on the CPU, for tests within one process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from llama31.model.cpu import cpu_backend


@contextmanager
def one_rank() -> Iterator[None]:
    """Within this context this process is the only rank; afterwards there are no groups."""
    with cpu_backend():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            parallel_state.initialize_model_parallel()
            model_parallel_cuda_manual_seed(1234)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()
