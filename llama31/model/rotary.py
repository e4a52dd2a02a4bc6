"""Self-attention that applies RoPE while it splits the projection into queries, keys and values.

Megatron without Transformer Engine splits the projection, rotates with six operations on whole tensors, and leaves a
strided layout to attention. Here the halves are rotated directly into the layout that attention reads, and gradients
take the same path back.
"""

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from torch import Tensor
from torch.autograd import Function


class RotarySelfAttention(SelfAttention):
    """Megatron's self-attention with RoPE (Su et al. 2021, arXiv:2104.09864; halves, not pairs, are rotated)."""

    _angles: Tensor | None = None

    def forward(self, hidden_states: Tensor, *arguments: Any, rotary_pos_emb: Tensor, **others: Any) -> Any:
        """Run Megatron's self-attention.

        Args:
            hidden_states: [sequence, batch, hidden size].
            arguments: Megatron's.
            rotary_pos_emb: Angles of both halves, [sequence, 1, 1, head size].
            others: Megatron's.
        """
        if rotary_pos_emb is not self._angles:  # Megatron reuses them across steps
            half = rotary_pos_emb[:, 0, 0, : rotary_pos_emb.size(-1) // 2].to(torch.float32)
            self._angles, self._cos, self._sin = rotary_pos_emb, half.cos(), half.sin()
        return super().forward(hidden_states, *arguments, **others)

    def get_query_key_value_tensors(
        self, hidden_states: Tensor, key_value_states: None = None, split_qkv: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries and keys, and values: [sequence, batch, heads, head size], contiguous per head."""
        assert key_value_states is None and split_qkv
        projected, _ = self.linear_qkv(hidden_states)
        groups = self.num_query_groups_per_partition
        grouped = projected.unflatten(-1, (groups, -1, self.hidden_size_per_attention_head))
        heads = _Rotated.apply(grouped, self._cos.to(projected.dtype), self._sin.to(projected.dtype))
        return tuple(tensor.permute(2, 0, 1, 3) for tensor in heads)


class _Rotated(Function):
    """Split and rotate the projection: [sequence, batch, groups, queries per group + 2, head size] to queries, keys and
    values of [batch, heads, sequence, head size]."""

    @staticmethod
    def forward(ctx: Any, grouped: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.shape = grouped.shape
        by_head = grouped.permute(1, 2, 3, 0, 4)
        queries, keys, values = by_head[:, :, :-2], by_head[:, :, -2], by_head[:, :, -1]
        rotated_queries = torch.empty(queries.shape, dtype=grouped.dtype, device=grouped.device)
        rotated_keys = torch.empty(keys.shape, dtype=grouped.dtype, device=grouped.device)
        _rotate(queries, cos, sin, rotated_queries)
        _rotate(keys, cos, sin, rotated_keys)
        return rotated_queries.flatten(1, 2), rotated_keys, values.contiguous()

    @staticmethod
    def backward(ctx: Any, of_queries: Tensor, of_keys: Tensor, of_values: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        of_grouped = torch.empty(ctx.shape, dtype=of_queries.dtype, device=of_queries.device)
        by_head = of_grouped.permute(1, 2, 3, 0, 4)
        _rotate(of_queries.unflatten(1, (ctx.shape[2], -1)), cos, -sin, by_head[:, :, :-2])
        _rotate(of_keys, cos, -sin, by_head[:, :, -2])
        by_head[:, :, -1].copy_(of_values)
        return of_grouped, None, None


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate [..., sequence, head size] into `out`, by an angle for each position and half-head index."""
    first, second = heads.chunk(2, dim=-1)
    to_first, to_second = out.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin)
