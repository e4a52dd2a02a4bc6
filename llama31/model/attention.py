"""Attention by torch's scaled_dot_product_attention, used without Transformer Engine.

Megatron's own attention without Transformer Engine materialises all scores, so memory grows with the square of the
sequence length, and it needs a mask from the data. torch's needs neither.
"""

from typing import Any

from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional


class ScaledDotProductAttention(MegatronModule):
    """Causal self-attention that replaces Megatron's `DotProductAttention`.

    Supports what this benchmark trains with: causal mask, no dropout, whole sequences. Anything else is a ValueError.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
    ):
        super().__init__(config=config)
        dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        _need("causal self-attention", attn_mask_type is AttnMaskType.causal and attention_type == "self")
        _need("no dropout", dropout == 0)
        _need("no context parallelism", config.context_parallel_size == 1)
        _need("no attention window", config.window_size is None)
        _need("the plain softmax", config.softmax_type == "vanilla")
        self.softmax_scale = softmax_scale  # None: 1 / sqrt(head size)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Compute causal attention.

        Args:
            query: [sequence, batch, heads, head size], the heads of this rank.
            key, value: [sequence, batch, key-value heads, head size], the heads of this rank.

        Returns:
            [sequence, batch, heads * head size].
        """
        _need("the causal mask", attention_mask is None and attn_mask_type in (None, AttnMaskType.causal))
        _need("no bias", attention_bias is None)
        _need("no packed sequences", packed_seq_params is None)
        _need("a key for each query", key.size(0) == query.size(0))  # torch aligns its causal mask with the first key
        # [sequence, batch, heads, size] -> [batch, heads, sequence, size]
        query, key, value = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        context = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=query.size(1) != key.size(1),
        )
        return context.permute(2, 0, 1, 3).flatten(start_dim=2).contiguous()


def _need(what: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"attention without Transformer Engine needs {what}")
