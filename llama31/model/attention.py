"""Attention by torch's scaled_dot_product_attention, for where Transformer Engine is not installed.

Megatron's own attention without Transformer Engine writes out all scores: memory grows with the square of the
sequence length, and it needs a mask from the data. torch's keeps neither.
"""

from typing import Any

from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional


class ScaledDotProductAttention(MegatronModule):
    """Causal self-attention in the place of Megatron's `DotProductAttention`.

    It handles what this benchmark trains with, and refuses the rest by a ValueError: causal, no dropout, whole
    sequences.
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
        """Attends to the tokens before each token and to itself; no other mask is accepted.

        Args:
            query: [sequence, batch, heads, head size], this rank's heads.
            key, value: [sequence, batch, key-value heads, head size], this rank's.

        Returns:
            [sequence, batch, heads * head size].
        """
        _need("the causal mask", attention_mask is None and attn_mask_type in (None, AttnMaskType.causal))
        _need("no bias", attention_bias is None)
        _need("no packed sequences", packed_seq_params is None)
        _need("a key for each query", key.size(0) == query.size(0))  # torch lays the mask from the first key on
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


def _need(what: str, there: bool) -> None:
    if not there:
        raise ValueError(f"attention without Transformer Engine needs {what}")
