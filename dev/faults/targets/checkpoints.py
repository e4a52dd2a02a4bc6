"""Targets that convert checkpoints, both ways."""

import subprocess
import sys
from pathlib import Path

from dev.faults import inputs
from dev.faults.target import Target
from dev.faults.targets.commands import llama31
from dev.support.runs import REPOSITORY, environment

LLAMA, NEMO = "llama", "nemo"
MAKE = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500000.0, max_position_embeddings=131072,
    initializer_range=0.1, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                  "original_max_position_embeddings": 8192})
LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(sys.argv[1], max_shard_size="100KB")
"""


def _call(*command: str) -> None:
    subprocess.run(
        command, check=True, capture_output=True, cwd=REPOSITORY, env={**environment(), "PYTHONPATH": str(REPOSITORY)}
    )


def _llama(directory: Path) -> None:
    """Save a random Llama and its tokenizer."""
    inputs.tokenizer(directory).rename(directory / LLAMA)
    _call(sys.executable, "-c", MAKE, str(directory / LLAMA))


def _nemo(directory: Path) -> None:
    """Convert such a Llama to NeMo's format."""
    _llama(directory)
    _call(*llama31("convert", "--source", directory / LLAMA, "--destination", directory / NEMO))


CHECKPOINTS = [
    Target(
        "convert-to-nemo",
        _llama,
        lambda work: llama31("convert", "--source", work / LLAMA, "--destination", work / NEMO),
        may_remain=r"\.partial",
        refuses_when_done=True,
        timeout=180,
    ),
    Target(
        "convert-to-hf",
        _nemo,
        lambda work: llama31("convert", "--source", work / NEMO, "--destination", work / "back", "--to", "hf"),
        may_remain=r"\.partial",
        refuses_when_done=True,
        timeout=180,
    ),
]
