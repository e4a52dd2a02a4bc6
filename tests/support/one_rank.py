"""The only rank, with Megatron's random states seeded, for tests within one process."""

from collections.abc import Iterator
from contextlib import contextmanager

from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from llama31.model import cpu_backend


@contextmanager
def one_rank() -> Iterator[None]:
    """Make this process the only rank within a context, and destroy its groups at the end."""
    with cpu_backend.one_rank():
        model_parallel_cuda_manual_seed(1234)
        yield
