"""torch's fused AdamW within Megatron's distributed optimizer: the optimizer of runs without Transformer Engine.

Without it, Megatron-Core 0.15 uses torch's AdamW, which has a step counter for each parameter. Megatron saves them as
one number, but cannot load it: it expects that the optimizer has made a step, wants a counter among the tensors of each
parameter, and then gives one counter to all parameters, which each of them increments.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from megatron.core.optimizer.distrib_optimizer import HAVE_APEX_OR_TE, DistributedOptimizer


def with_adamw(optimizers: Iterable[Any]) -> list[DistributedOptimizer]:
    """Return Megatron's optimizers if they contain torch's AdamW, otherwise none."""
    if HAVE_APEX_OR_TE:
        return []
    return [part for optimizer in optimizers for part in optimizer.mcore_optimizer.chained_optimizers]


def fuse(optimizers: Iterable[DistributedOptimizer]) -> None:
    """Make each AdamW the fused one, which passes over parameters and state once instead of a dozen times.

    Megatron does not pass this option on, and loading a checkpoint restores the options that it was saved with.
    """
    for distributed in optimizers:
        for group in distributed.optimizer.param_groups:
            group["fused"] = True


def initialise(optimizers: Iterable[DistributedOptimizer]) -> None:
    """Create the state that each AdamW has after a step, for a checkpoint to be loaded into."""
    for distributed in optimizers:
        for group in distributed.optimizer.param_groups:
            for parameter in group["params"]:
                distributed.optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


@contextmanager
def loadable(optimizers: Iterable[DistributedOptimizer]) -> Iterator[None]:
    """Let Megatron load state into each AdamW within this context; each parameter has its own step counter after it."""
    found = list(optimizers)
    for distributed in found:
        distributed._set_main_param_and_optimizer_states = partial(_set_with_step, distributed)
    yield
    for distributed in found:
        del distributed._set_main_param_and_optimizer_states
        for state in distributed.optimizer.state.values():
            state["step"] = state["step"].clone()


def _set_with_step(distributed: DistributedOptimizer, parameter: torch.nn.Parameter, tensors: dict[str, Any]) -> None:
    """Set what was loaded for a parameter; its step counter is already set."""
    step = distributed._get_main_param_and_optimizer_states(parameter)["step"]
    DistributedOptimizer._set_main_param_and_optimizer_states(distributed, parameter, {**tensors, "step": step})
