"""Runs NeMo and Megatron-Core, unmodified, where there is no CUDA device.

Megatron-Core asks `torch.cuda` for the current device, streams and random states, and writes "cuda" into some
calls. Its own switches reach no further than the initial weights (`use_cpu_initialization`), and NeMo's (`cpu=` of
MegatronParallel, gloo) no further than the placing of the model and the collectives. So within `cpu_backend()` a few
names of `torch.cuda` answer for the CPU, and a torch function mode (torch's own mechanism, the one behind
`torch.set_default_device`) turns "cuda" devices into the CPU. A run needs each of them. Whatever is not listed stays
as it is and raises, as torch does without CUDA; where torch would answer with zeros, or put a call off for ever, it is
made to raise: no wrong result is silent.

A rank that has no others to share its gradients with does not send them to itself: gloo, unlike NCCL, would copy them
four times, which takes 3% of a step.

Streams are no-ops, which is right since CPU work is done in order. Megatron's CUDA random state becomes torch's CPU
generator; its tracker saves and restores it around each use, as on a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class _CudaMeansCpu(TorchFunctionMode):
    """Sends what asks for a CUDA device to the CPU."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = (args[0], *map(_without_cuda, args[1:]))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _without_cuda(kwargs["device"])}
        if kwargs.get("pin_memory"):  # page-locked memory serves copies to a GPU alone
            kwargs = {**kwargs, "pin_memory": False}
        result = func(*args, **kwargs)
        # Megatron's optimizers tell precisions apart by the names of types on CUDA: torch.cuda.FloatTensor.
        if func is torch.Tensor.type and isinstance(result, str) and not result.startswith("torch.cuda."):
            return result.replace("torch.", "torch.cuda.", 1)
        return result


def _without_cuda(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("cuda"):
        return CPU
    return CPU if isinstance(value, torch.device) and value.type == "cuda" else value


def _nothing(*_: Any, **__: Any) -> None:
    """Waiting for a device: CPU work is done when its call returns."""


def _get_state(*_: Any, **__: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_state(state: torch.Tensor, *_: Any, **__: Any) -> None:
    torch.set_rng_state(state)


def _refused(what: str) -> Callable:
    """In the place of a function that would answer wrongly without CUDA, and say nothing."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"{what} of a CUDA device: there is none on the CPU (llama31.model.cpu_backend)")

    return refuse


def _unless_alone(synchronise: Callable) -> Callable:
    """A synchronisation of Megatron's data-parallel ranks, left out where there is one: it holds the whole already."""

    def synchronise_others(buckets: Any, *arguments: Any, **others: Any) -> None:
        overlapped = buckets.ddp_config.overlap_grad_reduce or buckets.ddp_config.overlap_param_gather
        if buckets.intra_distributed_optimizer_instance_size > 1 or overlapped:
            synchronise(buckets, *arguments, **others)

    return synchronise_others


@contextlib.contextmanager
def cpu_backend() -> Iterator[None]:
    """Within this context Megatron-Core runs on the CPU; afterwards everything is as before."""
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as Buckets
    from megatron.core.tensor_parallel import random as megatron_random

    replacements: list[tuple[Any, str, Any]] = [
        (torch.cuda, "current_device", lambda: CPU),
        (torch.cuda, "device_count", lambda: 1),  # NeMo seeds Megatron's tracker where there is a device
        (torch.cuda, "is_available", lambda: False),  # which torch's CUDA build may conclude from device_count
        (torch.cuda, "synchronize", _nothing),
        (torch.cuda, "Stream", torch.cpu.Stream),
        (torch.cuda, "stream", lambda _: contextlib.nullcontext()),  # torch's CUDA build looks for a driver here
        # torch.manual_seed calls manual_seed_all, so that must not call torch.manual_seed in turn.
        (torch.cuda, "manual_seed", torch.default_generator.manual_seed),
        (torch.cuda, "manual_seed_all", torch.default_generator.manual_seed),
        (torch.cuda, "get_rng_state", _get_state),
        (torch.cuda, "set_rng_state", _set_state),
        (megatron_random, "_get_cuda_rng_state", _get_state),
        (megatron_random, "_set_cuda_rng_state", _set_state),
        (Buckets, "start_grad_sync", _unless_alone(Buckets.start_grad_sync)),
        (Buckets, "start_param_sync", _unless_alone(Buckets.start_param_sync)),
        # Without CUDA, torch puts other changes of random states off until it is initialised, which never comes,
        # and all its statistics of memory are 0.
        (torch.cuda.random, "_lazy_call", _refused("the random state")),
        (torch.cuda.memory, "memory_stats_as_nested_dict", _refused("the memory")),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        stack.enter_context(_CudaMeansCpu())
        yield
