"""Megatron's model of a Llama on the CPU, without weights, to plan its checkpoint and to run its forward pass."""

import re
from typing import Any

import fiddle
import nemo_run as run
import torch
from megatron.core.models.gpt import GPTModel
from nemo.collections.llm.gpt.model.llama import Llama3Config, Llama31Config, LlamaConfig

from llama31.checkpoint.formats.architecture import Architecture
from llama31.model.device import Backend
from llama31.model.llama import adapt, without_kernels


def nemo_config(llama: Architecture, dtype: torch.dtype) -> run.Config[LlamaConfig]:
    """Return NeMo's configuration of a Llama, which can be built with and without Transformer Engine."""
    config = run.Config(
        Llama31Config if llama.rope_scaling else Llama3Config,
        num_layers=llama.layers,
        hidden_size=llama.hidden_size,
        ffn_hidden_size=llama.ffn_hidden_size,
        num_attention_heads=llama.attention_heads,
        num_query_groups=llama.key_value_heads,
        kv_channels=llama.head_size,
        seq_length=llama.max_position_embeddings,
        layernorm_epsilon=llama.norm_epsilon,
        rotary_base=int(llama.rope_theta) if llama.rope_theta == int(llama.rope_theta) else llama.rope_theta,
        share_embeddings_and_output_weights=llama.tied_embeddings,
        init_method_std=llama.initializer_range,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        params_dtype=dtype,
    )
    if scaling := llama.rope_scaling:
        config.scale_factor = scaling.factor
        config.low_freq_factor = scaling.low_freq_factor
        config.high_freq_factor = scaling.high_freq_factor
        config.old_context_len = scaling.original_max_position_embeddings
    without_kernels(config)
    return config


def empty_model(config: run.Config[LlamaConfig], rows: int, **changes: Any) -> GPTModel:
    """Return Megatron's model with `rows` rows in its embeddings, all parameters on torch's meta device."""
    adapt(config, Backend("cpu", transformer_engine=False))
    config.vocab_size = rows
    config.perform_initialization = False
    config.init_model_with_meta_device = True
    for name, value in changes.items():
        setattr(config, name, value)
    return fiddle.build(config).configure_model(tokenizer=None).eval()


def stored_as(model: GPTModel, prefix: str) -> dict[str, tuple[str, int]]:
    """Return, by parameter of `model`, the key under which Megatron stores it, with `prefix`, and its layer."""
    stored = model.sharded_state_dict(prefix=prefix)
    locations = {}
    for name, _ in model.named_parameters():
        layer = re.match(r"decoder\.layers\.(\d+)\.", name)
        locations[name] = (stored[f"{prefix}{name}"].key, int(layer[1]) if layer else 0)
    return locations
