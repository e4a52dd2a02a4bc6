"""Attention by torch compared with Megatron-Core's own, and unsupported arguments."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig
from one_rank import one_rank

from llama31.model.attention import ScaledDotProductAttention

SEQUENCE, BATCH, HEADS, SIZE = 33, 2, 8, 16
BUILT_WITH = {"layer_number": 3, "attn_mask_type": AttnMaskType.causal, "attention_type": "self"}
FUTURE = torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)[None, None]  # True: masked, as Megatron has it


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():
        yield


def configuration(key_value_heads: int = 2, **more: Any) -> TransformerConfig:
    return TransformerConfig(
        num_layers=4,
        hidden_size=HEADS * SIZE,
        num_attention_heads=HEADS,
        num_query_groups=key_value_heads,
        attention_dropout=0.0,
        masked_softmax_fusion=False,
        **more,
    )


def inputs(key_value_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value, [sequence, batch, heads, size], that ask for gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(SEQUENCE, BATCH, heads, SIZE) for heads in (HEADS, key_value_heads, key_value_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def attended(module: torch.nn.Module, qkv: list[torch.Tensor], mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Output and the gradients of query, key and value."""
    context = module(*qkv, mask, attn_mask_type=AttnMaskType.causal)
    weights = torch.linspace(-1, 1, context.numel()).view_as(context).to(context.dtype)
    return [context, *torch.autograd.grad((context * weights).sum(), qkv)]


@pytest.mark.parametrize("key_value_heads", [1, 2, HEADS])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("scale", [None, 0.1])
def test_it_gives_what_megatrons_gives(
    key_value_heads: int, dtype: torch.dtype, tolerance: float, scale: float | None
) -> None:
    config = configuration(key_value_heads, bf16=dtype is torch.bfloat16, attention_softmax_in_fp32=True)
    theirs = DotProductAttention(config, **BUILT_WITH, softmax_scale=scale)
    ours = ScaledDotProductAttention(config, **BUILT_WITH, softmax_scale=scale)
    expected = attended(theirs, inputs(key_value_heads, dtype), FUTURE)
    found = attended(ours, inputs(key_value_heads, dtype), None)
    for name, ours_, theirs_ in zip(("output", "query", "key", "value"), found, expected, strict=True):
        assert ours_.shape == theirs_.shape
        assert ours_.dtype == theirs_.dtype
        largest = theirs_.abs().max().item()
        assert torch.allclose(ours_, theirs_, rtol=0, atol=tolerance * largest), f"{name} differs from Megatron's"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"attn_mask_type": AttnMaskType.padding}, "causal self-attention"),
        ({"attn_mask_type": AttnMaskType.no_mask}, "causal self-attention"),
        ({"attention_type": "cross"}, "causal self-attention"),
        ({"attention_dropout": 0.1}, "no dropout"),
        ({"config": {"attention_dropout": 0.1}}, "no dropout"),
        ({"config": {"context_parallel_size": 2}}, "no context parallelism"),
        ({"config": {"window_size": (8, 0)}}, "no attention window"),
        ({"config": {"softmax_type": "off-by-one"}}, "the plain softmax"),
    ],
)
def test_it_is_not_built_for_anything_else(asked: dict[str, Any], reason: str) -> None:
    config = replace(configuration(), **asked.get("config", {}))
    arguments = {**BUILT_WITH, "config": config, **{name: value for name, value in asked.items() if name != "config"}}
    with pytest.raises(ValueError, match=f"needs {reason}"):
        ScaledDotProductAttention(**arguments)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"attention_mask": FUTURE}, "the causal mask"),
        ({"attn_mask_type": AttnMaskType.no_mask}, "the causal mask"),
        ({"attn_mask_type": AttnMaskType.padding_causal}, "the causal mask"),
        ({"attention_bias": torch.zeros(1)}, "no bias"),
        ({"packed_seq_params": object()}, "no packed sequences"),
    ],
)
def test_it_attends_in_no_other_way(asked: dict[str, Any], reason: str) -> None:
    module = ScaledDotProductAttention(configuration(), **BUILT_WITH)
    with pytest.raises(ValueError, match=f"needs {reason}"):
        module(*inputs(2, torch.float32), **asked)


def test_keys_of_tokens_that_came_before_the_queries_are_refused() -> None:
    module = ScaledDotProductAttention(configuration(), **BUILT_WITH)
    query, key, value = inputs(2, torch.float32)
    with pytest.raises(ValueError, match="needs a key for each query"):
        module(query[-1:], key, value)
