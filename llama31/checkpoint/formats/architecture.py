"""Architecture of a Llama, read from the configuration of a NeMo or Hugging Face checkpoint. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama31.checkpoint.formats import rope
from llama31.checkpoint.formats.fields import Fields
from llama31.checkpoint.formats.rope import Rope, RopeScaling
from llama31.common.errors import UserError
from llama31.config import model_sizes

MOST = {"layers": 4096, "head_size": 1 << 16}
"""Largest numbers that are believed: the parameters of each layer are listed, and the frequencies of a head."""


@dataclass(frozen=True)
class Architecture:
    """The dimensions and constants of a Llama."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    key_value_heads: int
    head_size: int
    vocab_size: int
    """Rows of the embeddings without Megatron's padding."""
    max_position_embeddings: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    """None: Llama 3.0 and before."""
    tied_embeddings: bool
    """Whether the output layer uses the input embedding's weights."""
    initializer_range: float

    @property
    def rope(self) -> Rope:
        """The rotary position embedding."""
        return Rope(self.rope_theta, self.rope_scaling)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by its name in Hugging Face checkpoints."""
        hidden, ffn, vocabulary = self.hidden_size, self.ffn_hidden_size, self.vocab_size
        queries, keys = self.attention_heads * self.head_size, self.key_value_heads * self.head_size
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            found |= {
                f"{prefix}.input_layernorm.weight": (hidden,),
                f"{prefix}.self_attn.q_proj.weight": (queries, hidden),
                f"{prefix}.self_attn.k_proj.weight": (keys, hidden),
                f"{prefix}.self_attn.v_proj.weight": (keys, hidden),
                f"{prefix}.self_attn.o_proj.weight": (hidden, queries),
                f"{prefix}.post_attention_layernorm.weight": (hidden,),
                f"{prefix}.mlp.gate_proj.weight": (ffn, hidden),
                f"{prefix}.mlp.up_proj.weight": (ffn, hidden),
                f"{prefix}.mlp.down_proj.weight": (hidden, ffn),
            }
        found["model.norm.weight"] = (hidden,)
        if not self.tied_embeddings:
            found["lm_head.weight"] = (vocabulary, hidden)
        return found

    def hugging_face(self) -> dict[str, Any]:
        """Return the fields of Hugging Face's LlamaConfig."""
        return {
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.ffn_hidden_size,
            "num_attention_heads": self.attention_heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_size,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.norm_epsilon,
            **self.rope.hugging_face(),
            "tie_word_embeddings": self.tied_embeddings,
            "initializer_range": self.initializer_range,
        }


def of_size(size: str, vocab_size: int, seq_length: int) -> Architecture:
    """Return the architecture that a run trains: Llama 3.1 with the dimensions of SIZE."""
    shape = model_sizes.SIZES[size]
    return Architecture(
        **vars(shape),
        head_size=shape.hidden_size // shape.attention_heads,
        vocab_size=vocab_size,
        max_position_embeddings=seq_length,
        norm_epsilon=model_sizes.NORM_EPSILON,
        rope_theta=float(model_sizes.ROTARY_BASE),
        rope_scaling=RopeScaling(
            factor=model_sizes.ROPE_FACTOR,
            low_freq_factor=model_sizes.LOW_FREQUENCY_FACTOR,
            high_freq_factor=model_sizes.HIGH_FREQUENCY_FACTOR,
            original_max_position_embeddings=model_sizes.LENGTH_BEFORE_STRETCHING,
        ),
        tied_embeddings=False,
        initializer_range=model_sizes.INITIAL_DEVIATION,
    )


def from_hugging_face(config: Mapping[str, Any], path: Path) -> Architecture:
    """Parse the content of the config.json at `path`. Raises UserError unless it is a Llama that Megatron supports."""
    read = Fields(config, path)
    read.need("model_type", {"llama"}, "a Llama has llama")
    read.need("hidden_act", {"silu"}, "a Llama has silu", default="silu")
    read.need("attention_bias", {False}, "a Llama's layers have no bias", default=False)
    read.need("mlp_bias", {False}, "a Llama's layers have no bias", default=False)
    read.need("quantization_config", {None}, "quantized weights cannot be converted", default=None)
    hidden, heads = read.positive("hidden_size"), read.positive("num_attention_heads")
    theta, scaling = rope.read(config, path)
    return _checked(
        Architecture(
            layers=read.positive("num_hidden_layers"),
            hidden_size=hidden,
            ffn_hidden_size=read.positive("intermediate_size"),
            attention_heads=heads,
            key_value_heads=read.positive("num_key_value_heads", heads),
            head_size=read.positive("head_dim", hidden // heads),
            vocab_size=read.positive("vocab_size"),
            max_position_embeddings=read.positive("max_position_embeddings", 2048),
            norm_epsilon=read.number("rms_norm_eps"),
            rope_theta=theta,
            rope_scaling=scaling,
            tied_embeddings=bool(read.value("tie_word_embeddings", False)),
            initializer_range=read.number("initializer_range", 0.02),
        ),
        path,
    )


def from_nemo(config: Mapping[str, Any], tokenizer_ids: int, path: Path) -> Architecture:
    """Parse the model's configuration in the model.yaml at `path`. Raises UserError as `from_hugging_face`.

    If the configuration has no vocabulary size, it is `tokenizer_ids`.
    """
    read = Fields(config, path)
    target = str(read.value("_target_", ""))
    if ".llama." not in target or "Llama4" in target:
        raise UserError(f"{path}: the model is a {target.rpartition('.')[2] or 'model without a name'}, not a Llama")
    read.need("normalization", {"RMSNorm"}, "a Llama has RMSNorm")
    read.need("position_embedding_type", {"rope"}, "a Llama has rope")
    read.need("rotary_percent", {1}, "a Llama rotates whole heads", default=1)
    read.need("gated_linear_unit", {True}, "a Llama has SwiGLU")
    for name in ("add_bias_linear", "add_qkv_bias", "qk_layernorm", "multi_latent_attention", "rotary_interleaved"):
        read.need(name, {False}, "a Llama has none", default=False)
    for name in ("num_moe_experts", "seq_len_interpolation_factor", "window_size", "no_rope_freq"):
        read.need(name, {None}, "a Llama has none", default=None)
    hidden, heads = read.positive("hidden_size"), read.positive("num_attention_heads")
    scaling = None
    if "scale_factor" in config:  # only Llama 3.1's configurations have this field
        scaling = RopeScaling(
            factor=read.number("scale_factor"),
            low_freq_factor=read.number("low_freq_factor"),
            high_freq_factor=read.number("high_freq_factor"),
            original_max_position_embeddings=read.positive("old_context_len"),
        )
    return _checked(
        Architecture(
            layers=read.positive("num_layers"),
            hidden_size=hidden,
            ffn_hidden_size=read.positive("ffn_hidden_size"),
            attention_heads=heads,
            key_value_heads=read.positive("num_query_groups", heads),
            head_size=read.positive("kv_channels", hidden // heads),
            vocab_size=read.positive("vocab_size", tokenizer_ids),
            max_position_embeddings=read.positive("seq_length"),
            norm_epsilon=read.number("layernorm_epsilon"),
            rope_theta=read.number("rotary_base"),
            rope_scaling=scaling,
            tied_embeddings=bool(read.value("share_embeddings_and_output_weights", False)),
            initializer_range=read.number("init_method_std"),
        ),
        path,
    )


def _checked(architecture: Architecture, path: Path) -> Architecture:
    for name, most in MOST.items():
        if (value := getattr(architecture, name)) > most:
            raise UserError(f"{path}: {value:,} {name.replace('_', ' ')}: no Llama has more than {most:,}")
    heads, groups = architecture.attention_heads, architecture.key_value_heads
    if heads % groups:
        raise UserError(f"{path}: {heads} attention heads cannot share {groups} key-value heads evenly")
    return architecture
