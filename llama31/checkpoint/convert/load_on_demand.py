"""Run a model whose weights are loaded when they are used.

Weights are loaded as fp32 before the forward pass of each module, into memory that the modules share, so that only one
module's are in memory.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Load(Protocol):
    """Reads a parameter by its name in the model: as it is stored, or copied into a tensor of its shape, if given."""

    def __call__(self, name: str, into: Tensor | None) -> Tensor:
        """Return the parameter."""
        ...


def load_on_demand(
    model: nn.Module, embedding: nn.Module, output: nn.Module, load: Load, on_read: Callable[[int], object]
) -> None:
    """Make each module of a model on the meta device load its weights as fp32 for its forward pass.

    The embedding looks its rows up in the stored type, and the output layer is computed some rows of its weights at a
    time, because as fp32 these two take most of a small model's memory.

    Args:
        model: All its weights belong to modules without submodules.
        embedding: Module whose result are rows of its weights.
        output: Module whose result, or the first one, is the product with its weights.
        load: Reads a parameter.
        on_read: Called with the bytes of each parameter.
    """
    parameters = {
        prefix: (module, dict(module.named_parameters(recurse=False))) for prefix, module in model.named_modules()
    }
    others = [empty for module, empty in parameters.values() if module not in (embedding, output)]
    shared = torch.empty(max(sum(each.numel() for each in empty.values()) for empty in others))
    for prefix, (module, empty) in parameters.items():
        if module is output:
            _load_rows(module, f"{prefix}.weight", load, on_read, shared)
        elif empty:
            _load_whole(module, prefix, load, on_read, None if module is embedding else shared)


def _load_whole(
    module: nn.Module, prefix: str, load: Load, on_read: Callable[[int], object], memory: Tensor | None
) -> None:
    """Load a module's weights for its forward pass, as fp32 into `memory`; if None, as stored, with an fp32 result."""
    empty = dict(module.named_parameters(recurse=False))

    def fetch(module: nn.Module, *_: Any) -> None:
        used = 0
        for name, parameter in empty.items():
            place = None
            if memory is not None:
                place = memory[used : used + parameter.numel()].view(parameter.shape)
                used += parameter.numel()
            loaded = load(f"{prefix}.{name}", place)
            setattr(module, name, nn.Parameter(loaded, requires_grad=False))
            on_read(loaded.nbytes)

    def drop(module: nn.Module, _: Any, result: Any) -> Any:
        for name, parameter in empty.items():
            setattr(module, name, parameter)
        return result.float() if memory is None else None  # None keeps the result

    module.register_forward_pre_hook(fetch)
    module.register_forward_hook(drop)


def _load_rows(module: nn.Module, name: str, load: Load, on_read: Callable[[int], object], memory: Tensor) -> None:
    """Make an output layer run its forward pass for as many rows of its weights at a time as fit into `memory`."""
    forward, empty = module.forward, module.weight

    def forward_rows(*arguments: Any, **others: Any) -> Any:
        stored = load(name, None)
        results = []
        for rows in stored.split(max(1, memory.numel() // stored.shape[1])):
            module.weight = nn.Parameter(memory[: rows.numel()].view_as(rows).copy_(rows), requires_grad=False)
            results.append(forward(*arguments, **others))
        module.weight = empty
        on_read(stored.nbytes)
        if isinstance(results[0], Tensor):
            return torch.cat(results, dim=-1)
        return torch.cat([first for first, *_ in results], dim=-1), *results[0][1:]

    module.forward = forward_rows
