"""Messages between ranks as JSON or bytes; torch's own object collectives unpickle, which runs what a pickle names.

All functions are collective over all ranks. They use the GPU if the ranks communicate by NCCL only, as torch does.
"""

import json
from typing import Any

import torch
import torch.distributed


def broadcast(value: Any) -> Any:
    """Return the JSON value of rank 0, the only one that is sent."""
    return json.loads(broadcast_bytes(json.dumps(value).encode() if torch.distributed.get_rank() == 0 else b""))


def all_gather(value: Any) -> list[Any]:
    """Return the JSON values of all ranks, in their order."""
    return [json.loads(of_rank) for of_rank in all_gather_bytes(json.dumps(value).encode())]


def gather(value: Any) -> list[Any]:
    """Return the JSON values of all ranks on rank 0, and nothing on other ranks."""
    mine, sizes = _padded(json.dumps(value).encode())
    is_first = torch.distributed.get_rank() == 0
    ranks = [torch.empty_like(mine) for _ in sizes] if is_first else None
    torch.distributed.gather(mine, ranks)
    return [json.loads(_bytes(of_rank, size)) for of_rank, size in zip(ranks or (), sizes, strict=is_first)]


def broadcast_bytes(content: bytes) -> bytes:
    """Return the bytes of rank 0, the only ones that are sent."""
    size = torch.tensor([len(content)], device=_device())
    torch.distributed.broadcast(size, 0)
    is_first = torch.distributed.get_rank() == 0
    message = _tensor(content) if is_first else torch.empty(int(size), dtype=torch.uint8, device=_device())
    torch.distributed.broadcast(message, 0)
    return _bytes(message, int(size))


def all_gather_bytes(content: bytes) -> list[bytes]:
    """Return the bytes of all ranks, in their order."""
    mine, sizes = _padded(content)
    ranks = [torch.empty_like(mine) for _ in sizes]
    torch.distributed.all_gather(ranks, mine)
    return [_bytes(of_rank, size) for of_rank, size in zip(ranks, sizes, strict=True)]


def _padded(content: bytes) -> tuple[torch.Tensor, list[int]]:
    """Return a message as long as the longest of all ranks, and the sizes of all."""
    size = torch.tensor([len(content)], device=_device())
    sizes = [torch.empty_like(size) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(sizes, size)
    lengths = [int(of_rank) for of_rank in sizes]
    return _tensor(content.ljust(max(lengths), b"\0")), lengths


def _tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)].to(_device())


def _bytes(message: torch.Tensor, size: int) -> bytes:
    return message[:size].cpu().numpy().tobytes()


def _device() -> torch.device:
    if torch.distributed.get_backend() != "nccl":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
