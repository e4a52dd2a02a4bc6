"""Shapes of the models: the benchmark's, and small ones of the same architecture for trials.

All are Llama 3.1: RMSNorm, SwiGLU, grouped-query attention, RoPE with Llama 3.1's scaling, untied embeddings,
no biases. Standard library only, so that a plan needs no framework.
"""

import math
from dataclasses import dataclass

# Llama 3.1 paper, section 3.2, and the model's published config.json; NeMo's Llama31Config8B has them too.
ROTARY_BASE = 500_000
NORM_EPSILON = 1e-5
ROPE_FACTOR = 8.0  # low frequencies are divided by it
LOW_FREQUENCY_FACTOR, HIGH_FREQUENCY_FACTOR = 1.0, 4.0
LENGTH_BEFORE_STRETCHING = 8192  # tokens
INITIAL_DEVIATION = 0.02  # of weights, NeMo's
VOCABULARY_UNIT = 128  # NeMo's make_vocab_size_divisible_by, for each tensor-parallel rank


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model, named as in the benchmark's model table."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    key_value_heads: int

    @property
    def key_value_size(self) -> int:
        """Width of the keys, and of the values, of one token."""
        return self.hidden_size * self.key_value_heads // self.attention_heads

    @property
    def layer_matrices(self) -> int:
        """Parameters in a layer's matrices: query and output 2 h^2, key and value 2 h kv, SwiGLU 3 h f."""
        return self.hidden_size * (2 * self.hidden_size + 2 * self.key_value_size + 3 * self.ffn_hidden_size)

    @property
    def layer_norms(self) -> int:
        """Parameters in a layer's two norms."""
        return 2 * self.hidden_size

    def parameters(self, vocab_size: int) -> int:
        """Return the number of trainable parameters, with `vocab_size` rows in each of the two embeddings."""
        embeddings = 2 * vocab_size * self.hidden_size
        return self.layers * (self.layer_matrices + self.layer_norms) + embeddings + self.hidden_size


SIZES = {
    "8b": Shape(layers=32, hidden_size=4096, ffn_hidden_size=14336, attention_heads=32, key_value_heads=8),
    "demo": Shape(layers=4, hidden_size=256, ffn_hidden_size=704, attention_heads=8, key_value_heads=4),
    "tiny": Shape(layers=4, hidden_size=64, ffn_hidden_size=160, attention_heads=4, key_value_heads=2),
}
"""Model sizes by the value of SIZE: `8b` is the benchmark's (Llama 3.1 paper, table 3)."""


def embedding_rows(vocab_size: int, tensor_parallel_size: int) -> int:
    """Return the rows of an embedding over all tensor-parallel ranks, after Megatron's padding."""
    unit = VOCABULARY_UNIT * tensor_parallel_size
    return math.ceil(vocab_size / unit) * unit
