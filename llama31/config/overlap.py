"""Communication that goes on while a rank computes: what the settings ask for, and what cannot be."""

from collections.abc import Iterator
from dataclasses import dataclass

from llama31.config import devices
from llama31.config.parallel_layout import Layout
from llama31.config.problem import Problem
from llama31.settings import Device, Settings


@dataclass(frozen=True)
class Overlap:
    """What is overlapped in a run; see `Overlap.of`."""

    grad_reduce: bool
    """The reduction of gradients among data- and context-parallel ranks, with the backward pass."""
    param_gather: bool
    """The gathering of updated weights among them, with the next forward pass."""
    tensor_parallel: bool
    """What tensor-parallel ranks exchange, with the matrix products before and after: Transformer Engine's."""

    @classmethod
    def of(cls, settings: Settings, *, on_gpu: bool) -> "Overlap":
        """Overlap with checked settings. Where one is empty, it is on if that is of use and the layout allows it.

        On the CPU the collectives' threads take cores from the model, so there it is for trying things out alone.
        """
        grad_reduce = _chosen(settings.overlap_grad_reduce, on_gpu and _sharing_ranks(settings) > 1)
        within_a_node = 1 < settings.tensor_parallel_size <= settings.gpus_per_node
        return cls(
            grad_reduce=grad_reduce,
            param_gather=_chosen(settings.overlap_param_gather, grad_reduce),
            tensor_parallel=_chosen(settings.tp_comm_overlap, settings.sequence_parallel and within_a_node),
        )

    def described(self) -> str:
        """What is overlapped, in a person's words; empty if nothing is."""
        parts = {
            "the reduction of gradients": self.grad_reduce,
            "the gathering of weights": self.param_gather,
            "tensor-parallel communication": self.tensor_parallel,
        }
        return ", ".join(what for what, overlapped in parts.items() if overlapped)


def planned(settings: Settings) -> Overlap:
    """Overlap on the device that the run will probably use."""
    return Overlap.of(settings, on_gpu=devices.device(settings) is not Device.cpu)


def problems(settings: Settings) -> Iterator[Problem]:
    """Overlap that would do nothing, or that Megatron cannot do."""
    if settings.overlap_grad_reduce and _sharing_ranks(settings) == 1:
        yield Problem(
            "overlap_grad_reduce",
            "OVERLAP_GRAD_REDUCE=1: one rank alone holds each weight, and has nothing to reduce",
            (None,),
        )
    # As Megatron-LM's arguments have it: both go by the same buckets, and without the former there is only one.
    elif settings.overlap_param_gather and not planned(settings).grad_reduce:
        yield Problem(
            "overlap_param_gather",
            "OVERLAP_PARAM_GATHER=1: needs OVERLAP_GRAD_REDUCE, which is off here",
            (None,),
            elsewhere=({"overlap_grad_reduce": True},),
        )
    # NeMo's MegatronCommOverlapCallback would turn it off with a warning.
    if settings.tp_comm_overlap and not settings.sequence_parallel:
        yield Problem(
            "tp_comm_overlap",
            "TP_COMM_OVERLAP=1: needs SEQUENCE_PARALLEL",
            (None,),
            elsewhere=({"sequence_parallel": True},),
        )


def _sharing_ranks(settings: Settings) -> int:
    """Ranks that hold the same weights, and share the optimizer's state."""
    return Layout.of(settings).data_parallel_size * settings.context_parallel_size


def _chosen(given: bool | None, usual: bool) -> bool:
    return usual if given is None else given
