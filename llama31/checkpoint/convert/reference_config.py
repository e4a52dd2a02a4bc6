"""Configurations of both checkpoints for the comparison of logits, each by its own library's rules.

They are read from the file itself, not by `architecture`, so that a number that is misread there, or lost in the
conversion, makes the logits differ.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.hugging_face import CONFIG
from llama31.common.errors import UserError
from llama31.common.json_files import load_json

if TYPE_CHECKING:
    import nemo_run as run
    from nemo.collections.llm.gpt.model import llama
    from transformers import LlamaConfig

HUGGING_FACE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "attention_bias",
    "mlp_bias", "tie_word_embeddings",
)  # fmt: skip
"""Fields of config.json that affect the logits. Others, such as attn_implementation or return_dict, must not."""

NEMO = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "seq_length", "layernorm_epsilon", "rotary_base", "rotary_percent", "scale_factor", "low_freq_factor",
    "high_freq_factor", "old_context_len",
)  # fmt: skip
"""Fields of model.yaml that affect the logits. All others concern training and its layout."""


def of_hugging_face(checkpoint: Path) -> "LlamaConfig":
    """Return the pinned transformers' configuration, with RoPE read from config.json as transformers 5 does.

    transformers 5 prefers rope_scaling to rope_parameters, and the theta inside them to rope_theta. If only the older
    fields exist, transformers 4 reads the same.
    """
    from transformers import LlamaConfig

    given = load_json(checkpoint / CONFIG)
    numbers = {name: given[name] for name in HUGGING_FACE if given.get(name) is not None}
    scaling = dict(given.get("rope_scaling") or given.get("rope_parameters") or {})
    theta = scaling.pop("rope_theta", None) or given.get("rope_theta") or LlamaConfig().rope_theta
    plain = scaling.get("rope_type", scaling.get("type", "default")) == "default"
    return LlamaConfig(**numbers, rope_theta=theta, rope_scaling=None if plain else scaling)


def of_nemo(checkpoint: Path) -> "run.Config[llama.LlamaConfig]":
    """Return NeMo's fp32 configuration of the class in model.yaml. Raises UserError if that is no Llama of NeMo's."""
    import nemo_run as run
    import torch
    from nemo.collections.llm.gpt.model import llama

    given = nemo.read_model(checkpoint)["config"]
    name = str(given["_target_"]).rpartition(".")[2]
    kind = getattr(llama, name, None)
    if not isinstance(kind, type) or not issubclass(kind, llama.LlamaConfig):
        raise UserError(f"{checkpoint / nemo.CONTEXT / nemo.MODEL}: the pinned NeMo has no Llama {name}")
    numbers = {name: given[name] for name in NEMO if name in given}
    return run.Config(kind, **numbers, params_dtype=torch.float32)
