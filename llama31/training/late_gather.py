"""Gather the sharded optimizer state for a checkpoint in the background, not while training waits.

Megatron saves the optimizer state in a form that any parallel layout can load: the first rank of each data-parallel
group gathers it in host memory over gloo, 12 bytes per parameter. That takes longer than anything else before an
asynchronous save can continue in the background. Here each rank only copies its own shard. The save is planned on
memory that the shards of the other ranks arrive in later, from a thread.

The process group is Megatron's own for this purpose, which training does not use, so the collectives of both cannot
meet. One save at a time uses it.
"""

import gc
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from llama31.training.background_writer import NICENESS

KEYS = ("param", "exp_avg", "exp_avg_sq")
MESSAGE = 64 << 20  # numbers sent at a time, 256 MB
STATE = "optimizer.state."  # how the names of gathered tensors begin


class LateGather:
    """The shards of one save, and their way to the ranks that write them.

    Within `used`, Megatron plans a save on memory that is filled once `run` has ended.
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._moves: list[tuple[torch.Tensor, int, int, Any]] = []
        self._live: set[int] = set()
        self.unread: list[torch.Tensor] = []
        """Tensors of the model and the optimizer, which nothing reads once the state is copied."""
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Replace Megatron's gathering within this context, and its copies of gathered tensors."""
        gather, resolve = DistributedOptimizer.get_parameter_state_dp_zero, MCoreSavePlanner.resolve_data

        def gather_later(optimizer: Any, use_gloo_comm: bool = True, **others: Any) -> Any:
            if not use_gloo_comm or any(others.values()):
                return gather(optimizer, use_gloo_comm=use_gloo_comm, **others)
            return self._state(optimizer)

        def resolved(planner: Any, item: Any) -> Any:
            return self._with_own_storage(resolve(planner, item), item.index.fqn)

        queue_between_processes = filesystem_async._get_write_results_queue

        DistributedOptimizer.get_parameter_state_dp_zero = gather_later
        MCoreSavePlanner.resolve_data = resolved
        # Only this rank puts results into it, and the usual one is a process that takes seconds to start.
        filesystem_async._get_write_results_queue = queue.Queue
        gc.freeze()  # Megatron collects garbage in between, which takes 0.6 s for all modules' objects
        try:
            yield
        finally:
            gc.unfreeze()
            DistributedOptimizer.get_parameter_state_dp_zero = gather
            MCoreSavePlanner.resolve_data = resolve
            filesystem_async._get_write_results_queue = queue_between_processes

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the plan as it is now: a copy if training changes it."""
        return tensor.clone() if tensor.untyped_storage().data_ptr() in self._live else tensor

    def start(self) -> None:
        """Start to exchange the shards, in a thread."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether this rank has sent and received everything, or has failed."""
        return self._thread is not None and not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for that. Raises what the thread raised."""
        assert self._thread
        self._thread.join()
        if self.error:
            raise self.error

    def _state(self, optimizer: Any) -> dict[Any, Any] | None:
        """Return what `get_parameter_state_dp_zero` does, with shards of other ranks missing; copy this rank's own."""
        group = optimizer.data_parallel_group_gloo
        rank, world = group.rank(), group.size()
        ranks = torch.distributed.get_process_group_ranks(group)
        state: dict[Any, Any] = {"buckets_coalesced": True}
        for number, ranges in enumerate(optimizer.gbuf_ranges):
            buffer = optimizer.buffers[number]
            ((dtype, buckets),) = ranges.items()
            self.unread += [tensor for tensor in (buffer.grad_data, buffer.param_data) if tensor is not None]
            whole: dict[str, Any] = {}
            if rank == 0:
                end = max((end for _, end, _ in buffer.param_index_map.values()), default=0)
                whole = {key: self._allocate(max(end, buffer.numel_unpadded)) for key in KEYS}
                for tensor in whole.values():
                    tensor[buffer.numel_unpadded :] = 0  # as Megatron pads
            offset = 0
            for bucket, range_map in zip(buffer.buckets, buckets, strict=True):
                shard, unpadded = bucket.grad_data.numel() // world, bucket.numel_unpadded

                def part(of: int, shard: int = shard, unpadded: int = unpadded) -> int:
                    return max(min(shard, unpadded - of * shard), 0)  # numbers of a rank that are no padding

                # This rank's own shard, copied into its place or, on other ranks, into memory to send it from.
                own = {key: whole[key][offset:] if rank == 0 else self._allocate(part(rank)) for key in KEYS}
                for parameter, of_parameter in range_map["param_map"].items():
                    found = optimizer._get_main_param_and_optimizer_states(parameter)
                    local = of_parameter["gbuf_local"]
                    end = min(local.end, part(rank))
                    self.unread += [found[key] for key in KEYS]
                    for key in KEYS:
                        source = found[key].detach()[: end - local.start]
                        own[key][local.start : end].copy_(source, non_blocking=True)
                for key in KEYS:
                    if rank > 0:
                        self._moves.append((own[key], ranks[0], rank, group))
                        continue
                    for other in range(1, world):
                        start = offset + other * shard
                        self._moves.append((whole[key][start : start + part(other)], ranks[other], 0, group))
                offset += unpadded
            if rank == 0:
                state[number] = {dtype: {**whole, "numel_unpadded": buffer.numel_unpadded}}
        torch.cuda.synchronize()
        return state if rank == 0 else None

    def _allocate(self, numbers: int) -> torch.Tensor:
        array = np.empty(numbers, np.float32)  # NumPy asks for huge pages, which are faster to get and to fork
        self._arrays.append(array)
        return torch.from_numpy(array)

    def _with_own_storage(self, data: Any, name: str) -> Any:
        """Return a tensor of the plan with a storage of its own if it is gathered: Megatron would copy a view, now."""
        if not isinstance(data, torch.Tensor):
            return data
        address, size = data.data_ptr(), data.numel() * data.itemsize
        for array in self._arrays:
            start = array.ctypes.data
            if data.device.type == "cpu" and start <= address and address + size <= start + array.nbytes and size:
                assert data.is_contiguous() and data.dtype == torch.float32, name
                first = (address - start) // data.itemsize
                return torch.from_numpy(array[first : first + data.numel()]).view(data.shape)
        assert not name.startswith(STATE), f"{name} was copied before it was gathered"
        self._live.add(data.untyped_storage().data_ptr())
        return data

    def _run(self) -> None:
        """Send this rank's shards, or receive those of the others."""
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)  # of this thread only
        try:
            for tensor, peer, rank, group in self._moves:
                for piece in tensor.split(MESSAGE) if tensor.numel() else ():
                    if rank:
                        torch.distributed.send(piece, peer, group=group)
                    else:
                        torch.distributed.recv(piece, peer, group=group)
        except Exception as error:  # noqa: BLE001 - raised by `wait`
            self.error = error
        self._moves.clear()
