"""RMSNorm and SwiGLU for CPUs, in few passes over memory.

On a GPU torch has one kernel for each of the two. On a CPU they become a dozen operations forward and backward, each
of which writes a tensor for the next one to read. Here the same arithmetic takes fewer operations and saves only the
inputs for the backward pass.
"""

from typing import Any

import torch
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm with the constructor of Megatron's wrapper, which it replaces."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float):
        super().__init__(hidden_size, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, [..., hidden size], along its last dimension."""
        return _Normalised.apply(x, self.weight, self.eps)


class _Normalised(Function):
    """x * r * weight with r = 1 / sqrt(mean(x^2) + epsilon) (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.size(-1)).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        product = torch.mul(gradient.float(), x).view(-1, x.size(-1))
        of_weight = product.t().mv(scale.view(-1))
        # r changes with x by -r^3 x / size.
        along = product.mv(weight.float()).view_as(scale).mul_(scale.pow(3)).div_(-x.size(-1))
        of_x = (gradient * scale).mul_(weight).addcmul_(x, along)
        return of_x.to(x.dtype), of_weight.to(weight.dtype), None


class SwiGLU(MegatronModule):
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202), as an activation module for Megatron."""

    def forward(self, both: Tensor) -> Tensor:
        """Return [..., size] from gate and up concatenated, [..., 2 * size]."""
        return _Gated.apply(both)


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        of_both = torch.empty_like(both)
        of_gate, of_up = of_both.chunk(2, dim=-1)
        torch.mul(functional.silu(gate), gradient, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        return of_both
