"""Overlap of communication with computation: chosen by settings, layout and device."""

from collections.abc import Iterator
from dataclasses import dataclass

from llama31.config import devices, low_precision
from llama31.config.parallel_layout import Layout
from llama31.config.problem import Problem
from llama31.settings import Device, Settings


@dataclass(frozen=True)
class Overlap:
    """Communication that is overlapped in a run; made by `Overlap.of`."""

    grad_reduce: bool
    """Reduction of gradients over data- and context-parallel ranks, during the backward pass."""
    param_gather: bool
    """All-gather of updated weights over the same ranks, during the next forward pass."""
    tensor_parallel: bool
    """Tensor-parallel communication, during the matrix products before and after it (Transformer Engine)."""

    @classmethod
    def of(cls, settings: Settings, *, on_gpu: bool) -> "Overlap":
        """Return the overlap of checked settings. An empty setting means: on, if useful and possible.

        On the CPU it is off by default, since the threads of the collectives take cores from the model.
        """
        grad_reduce = _chosen(settings.overlap_grad_reduce, on_gpu and _sharing_ranks(settings) > 1)
        within_a_node = 1 < settings.tensor_parallel_size <= settings.gpus_per_node
        return cls(
            grad_reduce=grad_reduce,
            param_gather=_chosen(
                settings.overlap_param_gather, grad_reduce and not low_precision.gathers_in_gradients(settings)
            ),
            tensor_parallel=_chosen(settings.tp_comm_overlap, settings.sequence_parallel and within_a_node),
        )

    def described(self) -> str:
        """Return a phrase for the plan; empty if nothing is overlapped."""
        parts = {
            "the reduction of gradients": self.grad_reduce,
            "the gathering of weights": self.param_gather,
            "tensor-parallel communication": self.tensor_parallel,
        }
        return ", ".join(what for what, overlapped in parts.items() if overlapped)


def planned(settings: Settings) -> Overlap:
    """Return the overlap on the device that the run will probably use."""
    return Overlap.of(settings, on_gpu=devices.device(settings) is not Device.cpu)


def problems(settings: Settings) -> Iterator[Problem]:
    """Yield settings of overlap that have no effect or that Megatron does not support."""
    if settings.overlap_grad_reduce and _sharing_ranks(settings) == 1:
        what = "OVERLAP_GRAD_REDUCE=1: each weight is on a single rank, so there is nothing to reduce"
        yield Problem("overlap_grad_reduce", what, (None,))
    # As in Megatron-LM's argument checks: both use the same buckets, and without the former there is only one.
    elif settings.overlap_param_gather and not planned(settings).grad_reduce:
        what = "OVERLAP_PARAM_GATHER=1: needs OVERLAP_GRAD_REDUCE, which is off here"
        yield Problem("overlap_param_gather", what, (None,), elsewhere=({"overlap_grad_reduce": True},))
    # Megatron-Core leaves it to the training loop to copy the weights into the gradients' memory, after it has been
    # set to 0 (step_with_ready_grads of its optimizer). NeMo 2.7.3's loop does not: zeros would be gathered.
    elif settings.overlap_param_gather and low_precision.gathers_in_gradients(settings):
        what = "OVERLAP_PARAM_GATHER=1: NeMo gathers no weights so with FP8_RECIPE=mxfp8 and FP8_PARAM_GATHER"
        yield Problem("overlap_param_gather", what, (None,), elsewhere=({"fp8_param_gather": False},))
    # NeMo's MegatronCommOverlapCallback would turn it off with a warning.
    if settings.tp_comm_overlap and not settings.sequence_parallel:
        what = "TP_COMM_OVERLAP=1: needs SEQUENCE_PARALLEL"
        yield Problem("tp_comm_overlap", what, (None,), elsewhere=({"sequence_parallel": True},))


def _sharing_ranks(settings: Settings) -> int:
    """Return the number of ranks that hold the same weights and shard the optimizer state."""
    return Layout.of(settings).data_parallel_size * settings.context_parallel_size


def _chosen(given: bool | None, usual: bool) -> bool:
    return usual if given is None else given
