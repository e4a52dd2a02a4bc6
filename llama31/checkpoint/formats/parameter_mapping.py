"""Mapping between the parameters of a Llama in Hugging Face and in Megatron checkpoints.

Megatron joins queries, keys and values in one tensor, and the two halves of SwiGLU in another. Its checkpoints store a
parameter of all layers under one key, with the layer as the first axis. Keys are those of Transformer Engine's layers;
Megatron stores its own layers, which have separate norms, under the same keys.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama31.checkpoint.formats.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "module."  # NeMo puts it before each of Megatron's keys
LAYERS = "decoder.layers."
EMBEDDING = f"{PREFIX}embedding.word_embeddings.weight"
OUTPUT = f"{PREFIX}output_layer.weight"
QKV = "self_attention.linear_qkv.weight"
FC1 = "mlp.linear_fc1.weight"
WHOLE_MODEL = {
    "embedding.word_embeddings.weight": ("model.embed_tokens.weight",),
    "decoder.final_layernorm.weight": ("model.norm.weight",),
    "output_layer.weight": ("lm_head.weight",),
}
IN_EACH_LAYER = {
    "self_attention.linear_qkv.layer_norm_weight": ("input_layernorm.weight",),
    QKV: ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "self_attention.linear_proj.weight": ("self_attn.o_proj.weight",),
    "mlp.linear_fc1.layer_norm_weight": ("post_attention_layernorm.weight",),
    FC1: ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.linear_fc2.weight": ("mlp.down_proj.weight",),
}


def megatron_keys(architecture: Architecture) -> list[str]:
    """Return the keys of all parameters in a NeMo checkpoint of this model."""
    keys = [f"{PREFIX}{key}" for key in (*WHOLE_MODEL, *(f"{LAYERS}{key}" for key in IN_EACH_LAYER))]
    return [key for key in keys if not (architecture.tied_embeddings and key == OUTPUT)]


def is_layered(key: str) -> bool:
    """Return whether a key's first axis is the layer."""
    return key.startswith(f"{PREFIX}{LAYERS}")


def hugging_face_names(key: str, layer: int = 0) -> tuple[str, ...]:
    """Return the Hugging Face parameters of a key, of one layer if it is layered. Raises KeyError if unknown."""
    if is_layered(key):
        return tuple(f"model.layers.{layer}.{name}" for name in IN_EACH_LAYER[key.removeprefix(f"{PREFIX}{LAYERS}")])
    return WHOLE_MODEL[key.removeprefix(PREFIX)]


def megatron_key(name: str) -> tuple[str, int, int]:
    """Return the key, the layer and the position in the key of a Hugging Face parameter. Raises KeyError if unknown."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    layer, rest = (int(match[1]), match[2]) if match else (0, name)
    for key, names in (IN_EACH_LAYER if match else WHOLE_MODEL).items():
        if rest in names:
            return f"{PREFIX}{LAYERS if match else ''}{key}", layer, names.index(rest)
    raise KeyError(name)


def join(key: str, tensors: Sequence["Tensor"], architecture: Architecture) -> "Tensor":
    """Join Hugging Face's parameters, in the order of `hugging_face_names`, into Megatron's."""
    import torch

    if key.endswith(QKV):
        # Grouped by key-value head: its queries, its key, its value.
        groups = architecture.key_value_heads
        split = (tensor.view(groups, -1, architecture.head_size, architecture.hidden_size) for tensor in tensors)
        return torch.cat(tuple(split), dim=1).flatten(0, 2)
    return torch.cat(tuple(tensors)) if len(tensors) > 1 else tensors[0]


def split(key: str, tensor: "Tensor", architecture: Architecture) -> tuple["Tensor", ...]:
    """Split Megatron's parameter into Hugging Face's, in the order of `hugging_face_names`; drop padded rows."""
    if key.endswith(QKV):
        groups, heads = architecture.key_value_heads, architecture.attention_heads
        grouped = tensor.view(groups, -1, architecture.head_size, architecture.hidden_size)
        return tuple(part.flatten(0, 2) for part in grouped.split((heads // groups, 1, 1), dim=1))
    if key in (EMBEDDING, OUTPUT):
        return (tensor[: architecture.vocab_size],)
    return tensor.chunk(len(hugging_face_names(key)))
