"""Independent recomputation: token windows by numpy, the loss by Hugging Face's Llama; no code of the product."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROPE_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def windows(bin_file: Path, dtype: str, seq_length: int, count: int) -> np.ndarray:
    """The first `count` windows of seq_length + 1 tokens of a .bin, each starting at the last token of the former."""
    tokens = np.fromfile(bin_file, dtype)
    return np.stack([tokens[i * seq_length : (i + 1) * seq_length + 1] for i in range(count)]).astype(np.int64)


def expected_fingerprint(sequences: np.ndarray) -> str:
    """Sum modulo 2^64 of the first 8 bytes of each window's SHA-256, as 16 hexadecimal digits."""
    digests = [hashlib.sha256(sequence.astype("<i8").tobytes()).digest() for sequence in sequences]
    return f"{sum(int.from_bytes(digest[:8], 'little') for digest in digests) % 2**64:016x}"


def hugging_face_llama(state: dict[str, torch.Tensor], heads: int, key_value_heads: int) -> LlamaForCausalLM:
    """Hugging Face's Llama with the weights of a Megatron state dict, dimensions read off the weights."""
    weights = {name.removeprefix("module.").removeprefix("module."): value for name, value in state.items()}
    vocabulary, hidden = weights["embedding.word_embeddings.weight"].shape
    layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("decoder.layers."))
    ffn = weights["decoder.layers.0.mlp.linear_fc2.weight"].shape[1]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        rms_norm_eps=1e-5,
        rope_theta=500_000.0,
        rope_scaling=ROPE_SCALING,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
    )
    translated = {
        "model.embed_tokens.weight": weights["embedding.word_embeddings.weight"],
        "model.norm.weight": weights["decoder.final_layernorm.weight"],
        "lm_head.weight": weights["output_layer.weight"],
    }
    size, group = hidden // heads, heads // key_value_heads
    for layer in range(layers):
        ours, theirs = f"decoder.layers.{layer}", f"model.layers.{layer}"
        # Megatron keeps, for each key-value head, its queries, its key and its value one after another.
        qkv = weights[f"{ours}.self_attention.linear_qkv.weight"].view(key_value_heads, group + 2, size, hidden)
        gate, up = weights[f"{ours}.mlp.linear_fc1.weight"].chunk(2)
        translated |= {
            f"{theirs}.self_attn.q_proj.weight": qkv[:, :group].reshape(-1, hidden),
            f"{theirs}.self_attn.k_proj.weight": qkv[:, group].reshape(-1, hidden),
            f"{theirs}.self_attn.v_proj.weight": qkv[:, group + 1].reshape(-1, hidden),
            f"{theirs}.self_attn.o_proj.weight": weights[f"{ours}.self_attention.linear_proj.weight"],
            f"{theirs}.mlp.gate_proj.weight": gate,
            f"{theirs}.mlp.up_proj.weight": up,
            f"{theirs}.mlp.down_proj.weight": weights[f"{ours}.mlp.linear_fc2.weight"],
            f"{theirs}.input_layernorm.weight": weights[f"{ours}.input_layernorm.weight"],
            f"{theirs}.post_attention_layernorm.weight": weights[f"{ours}.pre_mlp_layernorm.weight"],
        }
    model = LlamaForCausalLM(config)
    model.load_state_dict(translated)
    return model.float()


def mean_loss(model: LlamaForCausalLM, sequences: np.ndarray) -> float:
    """Mean over all tokens of the windows, nats per token."""
    ids = torch.from_numpy(sequences)
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).double(), ids[:, 1:].flatten()).item()


def mlperf_events(log: Path) -> list[dict]:
    """The events of an MLPerf log, in order."""
    prefix = ":::MLLOG "
    return [json.loads(line.removeprefix(prefix)) for line in log.read_text().splitlines() if line.startswith(prefix)]
