"""Run a step of dev/transformers_5.sh in an environment with torch and some version of transformers.

python dev/transformers_logits.py save DIRECTORY        save a small random Llama 3.1
python dev/transformers_logits.py run DIRECTORY FILE    write the logits of a checkpoint, fp32
python dev/transformers_logits.py compare FILE...       fail unless all logits are equal
"""

import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

THETA = 500_000.0
SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CONFIG = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131_072,
    "initializer_range": 0.1,  # so that the logits are large enough to differ
}


def save(directory: str) -> None:
    """Save a random model, bf16."""
    torch.manual_seed(0)
    config = LlamaConfig(**CONFIG, rope_theta=THETA, rope_scaling=SCALING)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)


def run(directory: str, file: str) -> None:
    """Write the logits of 256 random tokens."""
    tokens = torch.randint(CONFIG["vocab_size"], (1, 256), generator=torch.Generator().manual_seed(1))
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        torch.save(model(tokens).logits, file)
    print(f"transformers {transformers.__version__} ran {directory}")


def compare(*files: str) -> None:
    """Exit with a message unless the logits in all files are equal to the bit."""
    first, *others = (torch.load(file) for file in files)
    assert first.std() > 0.1, "the logits are too small to differ"
    for file, logits in zip(files[1:], others, strict=True):
        if not torch.equal(logits, first):
            sys.exit(f"{file}: differs from {files[0]} by {(logits - first).abs().max():.2g}")
    print(f"the logits in all {len(files)} files are equal to the bit")


if __name__ == "__main__":
    _, step, *arguments = sys.argv
    {"save": save, "run": run, "compare": compare}[step](*arguments)
