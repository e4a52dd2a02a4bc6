"""Copy a rank's state to shared memory, and plan its checkpoint, while training waits.

Megatron plans the save, through NeMo, as for its own asynchronous save; `llama31.training.save_process` executes it.

One thing is replaced. Megatron saves the optimizer state in a form that any parallel layout can load: the first rank of
each data-parallel group gathers it over gloo, 12 bytes per parameter, while all wait. Here Megatron gets tensors
without memory (torch's `meta` device), each rank copies only its own shard, and the processes exchange the shards.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies import torch as torch_dist
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from llama31.common.shared_memory import GRANULE, SharedMemory

KEYS = ("param", "exp_avg", "exp_avg_sq")
FP32 = 4  # bytes


@dataclass(frozen=True)
class SharedTensor:
    """A contiguous tensor in shared memory."""

    start: int
    """Bytes."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    def within(self, memory: SharedMemory) -> torch.Tensor:
        """Return the tensor, with a storage of its own as torch would save all of a larger one."""
        assert memory.view
        count = torch.Size(self.shape).numel()
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(memory.view, dtype=self.dtype, count=count, offset=self.start).view(self.shape)


@dataclass(frozen=True)
class Move:
    """A part of a shard that goes from one rank's shared memory to another's."""

    stored: SharedTensor
    peer: int
    is_sent: bool


@dataclass(frozen=True)
class Bucket:
    """A file of the checkpoint that this rank writes; the items are torch's (`WriteItem`)."""

    path: str
    name: str
    objects: list[tuple[Any, BytesIO]]
    tensors: list[tuple[Any, SharedTensor]]


@dataclass
class StateCopy:
    """What is in shared memory, and what becomes of it."""

    size: int = 0
    """Bytes."""
    moves: list[Move] = field(default_factory=list)
    """In an order that is the same for both ranks of a pair."""
    buckets: list[Bucket] = field(default_factory=list)
    transforms: Any = ()
    """Of Megatron's writer: torch's extensions, of which there are none."""
    metadata: Any = None
    """Torch's, for the table of contents; on rank 0."""


def copy_state(trainer: Trainer, path: Path, memory: SharedMemory) -> StateCopy:
    """Copy the state of a trainer to `memory`, and plan its checkpoint in `path`; collective.

    Rank 0 writes the objects that all ranks share, and what Megatron stores about the format.
    """
    planned = _Planned()
    with planned.gather_later(), _unchanged_garbage():
        request = _async_request(trainer, path)
        write_table, write_format, *_ = request.finalize_fns
        write_table()  # notes its arguments only
        write_format()
    planned.add_buckets(request)
    memory.resize(planned.copy.size)
    for stored, tensor in planned.sources:
        stored.within(memory).copy_(tensor, non_blocking=True)
    torch.cuda.synchronize()
    return planned.copy


class _Planned:
    """A copy that has not been made: where the tensors will be, and the tensors."""

    def __init__(self) -> None:
        self.copy = StateCopy()
        self.sources: list[tuple[SharedTensor, torch.Tensor]] = []
        self._gathered: list[tuple[torch.Tensor, int]] = []  # tensors without memory, and their start

    @contextmanager
    def gather_later(self) -> Iterator[None]:
        """Within this context, plan the exchange of shards instead of gathering them, and keep torch's metadata."""
        gather, finalize = DistributedOptimizer.get_parameter_state_dp_zero, torch_dist.save_state_dict_async_finalize

        def plan_gathering(optimizer: Any, use_gloo_comm: bool = True, **others: Any) -> Any:
            if not use_gloo_comm or any(others.values()):
                return gather(optimizer, use_gloo_comm=use_gloo_comm, **others)
            return self._optimizer_state(optimizer)

        def keep_metadata(_writer: Any, metadata: Any, _wrapper: Any) -> None:
            self.copy.metadata = metadata

        DistributedOptimizer.get_parameter_state_dp_zero = plan_gathering
        torch_dist.save_state_dict_async_finalize = keep_metadata
        # Of results, which is not used here. Megatron would start a process for it, which takes seconds.
        filesystem_async._results_queue = filesystem_async._results_queue or object()
        try:
            yield
        finally:
            DistributedOptimizer.get_parameter_state_dp_zero = gather
            torch_dist.save_state_dict_async_finalize = finalize

    def add_buckets(self, request: AsyncRequest) -> None:
        """Add the files that this rank writes, and the tensors for them that are not gathered."""
        if request.async_fn is None:
            return
        self.copy.transforms = request.async_fn.args[0]
        _, buckets, _ = request.async_fn_args
        for path, name, (objects, tensors) in buckets:
            stored = [(item, self._find(tensor) or self._add(tensor)) for item, tensor in tensors]
            self.copy.buckets.append(Bucket(str(path), name, objects, stored))

    def _take(self, numbers: int, dtype: torch.dtype = torch.float32) -> int:
        start = -(-self.copy.size // GRANULE) * GRANULE
        self.copy.size = start + numbers * dtype.itemsize
        return start

    def _add(self, tensor: torch.Tensor) -> SharedTensor:
        stored = SharedTensor(self._take(tensor.numel(), tensor.dtype), tuple(tensor.shape), tensor.dtype)
        self.sources.append((stored, tensor))
        return stored

    def _find(self, tensor: torch.Tensor) -> SharedTensor | None:
        """Return the place of a tensor that is gathered, or None if it is another."""
        if tensor.device.type != "meta":
            return None
        assert tensor.is_contiguous()
        for whole, start in self._gathered:
            if tensor.untyped_storage()._cdata == whole.untyped_storage()._cdata:
                return SharedTensor(start + FP32 * tensor.storage_offset(), tuple(tensor.shape), tensor.dtype)
        raise AssertionError("Megatron copied a tensor that is not gathered yet")

    def _optimizer_state(self, optimizer: Any) -> dict[Any, Any] | None:
        """Return what `get_parameter_state_dp_zero` does, without memory, and plan how it gets there."""
        group = optimizer.data_parallel_group_gloo
        rank, ranks = group.rank(), torch.distributed.get_process_group_ranks(group)
        state: dict[Any, Any] = {"buckets_coalesced": True}
        for number, (buffer, ranges) in enumerate(zip(optimizer.buffers, optimizer.gbuf_ranges, strict=True)):
            ((dtype, buckets),) = ranges.items()
            whole: dict[str, int] = {}
            if rank == 0:
                used = buffer.numel_unpadded
                numbers = max(used, *(end for _, end, _ in buffer.param_index_map.values()))
                tensors = {key: torch.empty(numbers, dtype=torch.float32, device="meta") for key in KEYS}
                whole = {key: self._take(numbers) for key in KEYS}
                self._gathered += [(tensors[key], whole[key]) for key in KEYS]
                for key in KEYS:  # as Megatron pads
                    self._copy_to(whole[key] + FP32 * used, torch.zeros(numbers - used))
                state[number] = {dtype: {**tensors, "numel_unpadded": used}}
            offset = 0
            for bucket, range_map in zip(buffer.buckets, buckets, strict=True):
                self._add_shards(
                    optimizer, bucket, range_map, rank, ranks, {k: s + FP32 * offset for k, s in whole.items()}
                )
                offset += bucket.numel_unpadded
        return state if rank == 0 else None

    def _add_shards(
        self, optimizer: Any, bucket: Any, range_map: Any, rank: int, ranks: list[int], whole: dict[str, int]
    ) -> None:
        """Plan how the shards of one bucket get to the group's first rank, which has memory at `whole` for them."""
        shard = bucket.grad_data.numel() // len(ranks)
        # Numbers in each rank's shard that are no padding.
        numbers = [max(min(shard, bucket.numel_unpadded - of * shard), 0) for of in range(len(ranks))]
        own = whole or {key: self._take(numbers[rank]) for key in KEYS}
        for parameter, ranges in range_map["param_map"].items():
            found, local = optimizer._get_main_param_and_optimizer_states(parameter), ranges["gbuf_local"]
            end = min(local.end, numbers[rank])
            for key in KEYS:
                self._copy_to(own[key] + FP32 * local.start, found[key].detach()[: end - local.start])
        for key in KEYS:
            if rank > 0:
                self._move(own[key], numbers[rank], ranks[0], is_sent=True)
                continue
            for other in range(1, len(ranks)):
                self._move(whole[key] + FP32 * other * shard, numbers[other], ranks[other], is_sent=False)

    def _copy_to(self, start: int, tensor: torch.Tensor) -> None:
        if tensor.numel():
            self.sources.append((SharedTensor(start, tuple(tensor.shape), torch.float32), tensor))

    def _move(self, start: int, numbers: int, peer: int, *, is_sent: bool) -> None:
        if numbers:
            self.copy.moves.append(Move(SharedTensor(start, (numbers,), torch.float32), peer, is_sent))


class _KeepRequest(_WrappingCheckpointIO):
    """NeMo's writer of checkpoints, keeping the request that it returns."""

    request: AsyncRequest | None = None

    def save_checkpoint(self, *arguments: Any, **others: Any) -> None:
        self.request = self.checkpoint_io.save_checkpoint(*arguments, **others)


def _async_request(trainer: Trainer, path: Path) -> AsyncRequest:
    """Return Megatron's request for an asynchronous save of a trainer's state to a directory; collective."""
    strategy: Any = trainer.strategy
    usual = strategy.checkpoint_io
    kept = _KeepRequest(usual)
    usual.async_save, strategy.checkpoint_io = True, kept
    try:
        trainer.save_checkpoint(path)
    finally:
        usual.async_save, strategy.checkpoint_io = False, usual
    assert kept.request
    return kept.request


@contextmanager
def _unchanged_garbage() -> Iterator[None]:
    """Exclude all present objects from garbage collection: Megatron collects, which takes 0.6 s for all modules'."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
