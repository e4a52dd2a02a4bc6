"""Megatron layer specifications without Transformer Engine."""

from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from llama31.model.attention import ScaledDotProductAttention
from llama31.model.cpu_layers import RMSNorm, SwiGLU
from llama31.model.rotary import RotarySelfAttention


def torch_layer_spec(config: TransformerConfig) -> ModuleSpec:
    """Return layers made of torch modules."""
    spec = get_gpt_layer_local_spec(normalization=config.normalization)
    spec.submodules.self_attention.module = RotarySelfAttention
    spec.submodules.self_attention.submodules.core_attention = ScaledDotProductAttention
    return spec


def cpu_layer_spec(config: TransformerConfig) -> ModuleSpec:
    """Return `torch_layer_spec` with norms and activations for CPUs; needs use_te_activation_func."""
    spec = torch_layer_spec(config)
    spec.submodules.input_layernorm = spec.submodules.pre_mlp_layernorm = RMSNorm
    spec.submodules.mlp.submodules.activation_func = SwiGLU
    return spec
