"""Layers without Transformer Engine compared with Megatron-Core's own: outputs and gradients."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.fusions.fused_cross_entropy import fused_vocab_parallel_cross_entropy
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.spec_utils import build_module
from megatron.core.transformer.transformer_config import TransformerConfig
from one_rank import one_rank
from torch.nn import functional

from llama31.model.attention import ScaledDotProductAttention
from llama31.model.cpu_layers import RMSNorm, SwiGLU
from llama31.model.layers import cpu_layer_spec, torch_layer_spec
from llama31.model.rotary import RotarySelfAttention

SEQUENCE, BATCH, HEADS, SIZE = 33, 2, 8, 16
HIDDEN = HEADS * SIZE
PRECISIONS = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])


@pytest.fixture(scope="module", autouse=True)
def rank() -> Iterator[None]:
    with one_rank():
        yield


def configuration(key_value_heads: int = 2) -> TransformerConfig:
    return TransformerConfig(
        num_layers=4,
        hidden_size=HIDDEN,
        ffn_hidden_size=224,
        num_attention_heads=HEADS,
        num_query_groups=key_value_heads,
        normalization="RMSNorm",
        layernorm_epsilon=1e-5,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        bias_dropout_fusion=False,
        use_cpu_initialization=True,
    )


def angles() -> torch.Tensor:
    embedding = RotaryEmbedding(SIZE, rotary_percent=1.0, rotary_base=500_000, use_cpu_initialization=True)
    return embedding(SEQUENCE)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_gradients(output: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The output, and what a random gradient of it gives to the inputs."""
    return [output, *torch.autograd.grad(output, inputs, draw(*output.shape, dtype=output.dtype, seed=1))]


def assert_near(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Each within `tolerance` of the largest expected value."""
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        error = (ours.double() - theirs.double()).abs().max() / theirs.abs().max()
        assert error <= tolerance, f"{'output' if number == 0 else f'gradient {number}'} is off by {error:.1e}"


@PRECISIONS
def test_rms_norm(dtype: torch.dtype, tolerance: float) -> None:
    norm = RMSNorm(configuration(), HIDDEN, eps=1e-5).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(draw(HIDDEN))
    x = (3 * draw(SEQUENCE, BATCH, HIDDEN, dtype=dtype)).requires_grad_()
    exact, weight = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    expected = with_gradients(functional.rms_norm(exact, (HIDDEN,), weight, 1e-5), exact, weight)
    assert_near(with_gradients(norm(x), x, norm.weight), [one.to(dtype) for one in expected], tolerance)


def test_rms_norm_of_zeros_is_finite() -> None:
    x = torch.zeros(2, HIDDEN, requires_grad=True)
    found = with_gradients(RMSNorm(configuration(), HIDDEN, eps=1e-5)(x), x)
    assert all(one.isfinite().all() for one in found)


@PRECISIONS
def test_swiglu(dtype: torch.dtype, tolerance: float) -> None:
    both = draw(SEQUENCE, BATCH, 2 * HIDDEN, dtype=dtype).requires_grad_()
    exact = both.detach().double().requires_grad_()
    gate, up = exact.chunk(2, dim=-1)
    expected = with_gradients(functional.silu(gate) * up, exact)
    assert_near(with_gradients(SwiGLU(configuration())(both), both), [one.to(dtype) for one in expected], tolerance)


@PRECISIONS
@pytest.mark.parametrize("key_value_heads", [1, 2, HEADS])
def test_attention_is_rotated_as_megatrons(key_value_heads: int, dtype: torch.dtype, tolerance: float) -> None:
    config = replace(configuration(key_value_heads), params_dtype=dtype)
    modules = get_gpt_layer_local_spec(normalization="RMSNorm").submodules.self_attention.submodules
    modules.core_attention = ScaledDotProductAttention
    built: dict[str, Any] = {"layer_number": 1, "attn_mask_type": AttnMaskType.causal}
    theirs = SelfAttention(config, modules, **built)
    ours = RotarySelfAttention(config, modules, **built)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for attention in (theirs, ours):
        hidden = draw(SEQUENCE, BATCH, HIDDEN, dtype=dtype).requires_grad_()
        output, _ = attention(hidden, None, rotary_pos_emb=angles())
        results.append(with_gradients(output, hidden, *attention.parameters()))
    assert_near(results[1], results[0], tolerance)


def test_angles_are_those_of_the_call() -> None:
    """A cache of the last ones must not outlive them."""
    attention = build_module(
        torch_layer_spec(configuration()).submodules.self_attention, config=configuration(), layer_number=1
    )
    hidden = draw(SEQUENCE, BATCH, HIDDEN)
    one = angles()
    first, other, again = (attention(hidden, None, rotary_pos_emb=each)[0] for each in (one, 2 * one, one.clone()))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_layer_for_cpus_gives_what_megatrons_gives() -> None:
    config = configuration()
    theirs = build_module(get_gpt_layer_local_spec(normalization="RMSNorm"), config=config)
    for_cpus = replace(config, use_te_activation_func=True)
    ours = build_module(cpu_layer_spec(for_cpus), config=for_cpus)
    ours.load_state_dict(theirs.state_dict())
    future = torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)[None, None]  # True: masked, as Megatron has it
    results = []
    for layer, mask in ((theirs, future), (ours, None)):
        hidden = draw(SEQUENCE, BATCH, HIDDEN).requires_grad_()
        output, _ = layer(hidden, mask, rotary_pos_emb=angles())
        results.append(with_gradients(output, hidden, *layer.parameters()))
    assert_near(results[1], results[0], 1e-5)


def test_nothing_else_of_megatrons_layer_is_replaced() -> None:
    ours, theirs = cpu_layer_spec(configuration()), get_gpt_layer_local_spec(normalization="RMSNorm")
    theirs.submodules.self_attention.module = RotarySelfAttention
    theirs.submodules.self_attention.submodules.core_attention = ScaledDotProductAttention
    assert torch_layer_spec(configuration()) == theirs
    theirs.submodules.input_layernorm = theirs.submodules.pre_mlp_layernorm = RMSNorm
    theirs.submodules.mlp.submodules.activation_func = SwiGLU
    assert ours == theirs


def test_the_compiled_loss_is_megatrons_plain_one_in_bf16() -> None:
    """Its arithmetic, not compiled: it is for CUDA."""
    logits = draw(SEQUENCE, BATCH, 128, dtype=torch.bfloat16).requires_grad_()
    labels = torch.randint(128, (SEQUENCE, BATCH), generator=torch.Generator().manual_seed(2))
    group = parallel_state.get_tensor_model_parallel_group()
    with torch.compiler.set_stance("force_eager"):
        found = with_gradients(fused_vocab_parallel_cross_entropy(logits, labels, group), logits)
    expected = with_gradients(vocab_parallel_cross_entropy(logits, labels), logits)
    assert all(map(torch.equal, found, expected))
