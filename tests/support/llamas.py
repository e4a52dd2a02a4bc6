"""Small random Llamas as transformers saves them, of several kinds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny
import torch
from oracle import ROPE_SCALING
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama31.checkpoint.formats.rope import RopeScaling

STRETCHED = RopeScaling(**{name: value for name, value in ROPE_SCALING.items() if name != "rope_type"})


@dataclass(frozen=True)
class Kind:
    """What a test model is, on top of COMMON."""

    config: dict[str, Any]
    dtype: torch.dtype = torch.bfloat16
    tokenizer: int = 0  # ids of its tokenizer; 0: it has none
    norms: torch.dtype | None = None  # stored type of the norms, if another


COMMON = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": ROPE_SCALING,
    "max_position_embeddings": 131_072,
    "initializer_range": 0.1,  # so that the logits are large enough to differ
}
ONE_HEAD = "3.1 fp16, fp32 norms"  # of keys and values, which no tensor-parallel ranks can share
KINDS = {
    "3.1": Kind({"vocab_size": 512, "tie_word_embeddings": False}, tokenizer=512),
    # Multi-head attention, and a vocabulary that neither 128 nor 2 divides.
    "3.0 tied, odd vocabulary": Kind(
        {
            "vocab_size": 1001,
            "num_key_value_heads": 4,
            "rope_scaling": None,
            "rope_theta": 10_000.0,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": True,
        },
        torch.float32,
    ),
    # Heads that together are wider than the hidden size, and a vocabulary that NeMo pads.
    "3.2 tied, wide heads": Kind(
        {
            "vocab_size": 501,
            "head_dim": 24,
            "rope_scaling": {**ROPE_SCALING, "factor": 32.0},
            "tie_word_embeddings": True,
        },
        tokenizer=501,
    ),
    ONE_HEAD: Kind(
        {"vocab_size": 300, "num_key_value_heads": 1, "num_attention_heads": 2, "tie_word_embeddings": False},
        torch.float16,
        norms=torch.float32,
    ),
}


def make(kind: Kind, directory: Path) -> Path:
    """Save a random model of this kind, in several files, with its tokenizer."""
    if kind.tokenizer:
        tiny.make_tokenizer(directory, kind.tokenizer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**COMMON, **kind.config}, bos_token_id=0, eos_token_id=1)).to(kind.dtype)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):  # which start at 1: lost ones would not show
            parameter.data = parameter.data.uniform_(0.5, 1.5).to(kind.norms or kind.dtype)
    model.save_pretrained(directory, max_shard_size="100KB")
    return directory


def edit_config(directory: Path, **fields: Any) -> None:
    """Changes fields of config.json."""
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def add_tensors(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Adds tensors to the first file of a checkpoint, or replaces them there."""
    file = min(directory.glob("*.safetensors"))
    save_file(
        {**load_file(file), **{name: tensor.clone() for name, tensor in tensors.items()}},
        file,
        metadata={"format": "pt"},
    )


def frequencies(head_size: int, rope: dict[str, Any]) -> torch.Tensor:
    """transformers' buffer inv_freq for RoPE's fields of config.json."""
    return LlamaRotaryEmbedding(LlamaConfig(head_dim=head_size, max_position_embeddings=131_072, **rope)).inv_freq
