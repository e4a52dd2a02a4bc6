"""Run NeMo and Megatron-Core, unmodified, without a CUDA device.

Megatron-Core asks `torch.cuda` for the current device, streams and random states, and passes "cuda" to some calls. Its
own switch covers only the initial weights (`use_cpu_initialization`), and NeMo's (`cpu=` of MegatronParallel, gloo)
only the device of the model and the collectives. So within `cpu_backend()` a few functions of `torch.cuda` return the
CPU's values, and a torch function mode (the mechanism behind `torch.set_default_device`) replaces "cuda" devices by
the CPU. Each replacement is needed by a run. Everything else raises, as torch does without CUDA. Where torch would
return zeros or defer a call for ever, the function is replaced by one that raises, so that no wrong result is silent.

A single data-parallel rank does not reduce gradients with itself: gloo, unlike NCCL, would copy them four times, which
takes 3% of a step.

Streams are no-ops, which is correct since CPU work runs in order. Megatron's CUDA random state becomes torch's CPU
generator; its tracker saves and restores it around each use, as on a GPU.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class _CudaMeansCpu(TorchFunctionMode):
    """Replace CUDA devices in calls of torch by the CPU."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = (args[0], *map(_without_cuda, args[1:]))
        if "device" in kwargs:
            kwargs = {**kwargs, "device": _without_cuda(kwargs["device"])}
        if kwargs.get("pin_memory"):  # page-locked memory is only useful for copies to a GPU
            kwargs = {**kwargs, "pin_memory": False}
        result = func(*args, **kwargs)
        # Megatron's optimizers distinguish precisions by type names on CUDA: torch.cuda.FloatTensor.
        if func is torch.Tensor.type and isinstance(result, str) and not result.startswith("torch.cuda."):
            return result.replace("torch.", "torch.cuda.", 1)
        return result


def _without_cuda(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("cuda"):
        return CPU
    return CPU if isinstance(value, torch.device) and value.type == "cuda" else value


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing in place of waiting for a device: CPU work is done when its call returns."""


def _get_state(*_: Any, **__: Any) -> torch.Tensor:
    return torch.get_rng_state()


def _set_state(state: torch.Tensor, *_: Any, **__: Any) -> None:
    torch.set_rng_state(state)


def _raising(what: str) -> Callable:
    """Return a function that raises, to replace one that would be silently wrong without CUDA."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"{what} of a CUDA device: there is none on the CPU (llama31.model.cpu_backend)")

    return fail


def _unless_single(synchronise: Callable) -> Callable:
    """Wrap a synchronisation of Megatron's data-parallel ranks: skip it for a single rank."""

    def synchronise_others(buckets: Any, *arguments: Any, **others: Any) -> None:
        overlapped = buckets.ddp_config.overlap_grad_reduce or buckets.ddp_config.overlap_param_gather
        if buckets.intra_distributed_optimizer_instance_size > 1 or overlapped:
            synchronise(buckets, *arguments, **others)

    return synchronise_others


@contextlib.contextmanager
def cpu_backend() -> Iterator[None]:
    """Run Megatron-Core on the CPU within this context, and restore everything at its end."""
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as Buckets
    from megatron.core.tensor_parallel import random as megatron_random

    replacements: list[tuple[Any, str, Any]] = [
        (torch.cuda, "current_device", lambda: CPU),
        (torch.cuda, "device_count", lambda: 1),  # NeMo seeds Megatron's tracker only if there is a device
        (torch.cuda, "is_available", lambda: False),  # torch's CUDA build may derive it from device_count
        (torch.cuda, "synchronize", _nothing),
        (torch.cuda, "Stream", torch.cpu.Stream),
        (torch.cuda, "stream", lambda _: contextlib.nullcontext()),  # torch's CUDA build looks for a driver here
        # torch.manual_seed calls manual_seed_all, so manual_seed_all must not call torch.manual_seed.
        (torch.cuda, "manual_seed", torch.default_generator.manual_seed),
        (torch.cuda, "manual_seed_all", torch.default_generator.manual_seed),
        (torch.cuda, "get_rng_state", _get_state),
        (torch.cuda, "set_rng_state", _set_state),
        (megatron_random, "_get_cuda_rng_state", _get_state),
        (megatron_random, "_set_cuda_rng_state", _set_state),
        (Buckets, "start_grad_sync", _unless_single(Buckets.start_grad_sync)),
        (Buckets, "start_param_sync", _unless_single(Buckets.start_param_sync)),
        # Without CUDA, torch defers other changes of random states until CUDA is initialised, which never happens,
        # and all its memory statistics are 0.
        (torch.cuda.random, "_lazy_call", _raising("the random state")),
        (torch.cuda.memory, "memory_stats_as_nested_dict", _raising("the memory")),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in replacements:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        stack.enter_context(_CudaMeansCpu())
        yield


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """Make this process Megatron's only rank, on the CPU, within this context."""
    from megatron.core import parallel_state

    with cpu_backend():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            parallel_state.initialize_model_parallel()
            yield
        finally:
            parallel_state.destroy_model_parallel()
            torch.distributed.destroy_process_group()
