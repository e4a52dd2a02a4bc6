"""Measure memory and time of converting a random Llama with the shape of Llama 3.2 1B, bf16, to NeMo and back.

    python3 -m dev.bench.convert_memory DIRECTORY

Writes 8 GB to DIRECTORY and keeps them. The peak is that of the process (ru_maxrss), which includes pages of mapped
files. It is printed next to the expected limit: the model once in its data type, plus the largest file of the source.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from dev.bench import harness
from llama31.checkpoint.formats import architecture, hugging_face

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
}
PER_FILE = 40  # tensors


def make(directory: Path) -> None:
    """Write a random model in files of about half a GB."""
    directory.mkdir()
    generator = torch.Generator().manual_seed(0)
    shapes = architecture.from_hugging_face(CONFIG, directory).shapes()
    names = list(shapes)
    groups = [names[start : start + PER_FILE] for start in range(0, len(names), PER_FILE)]
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        tensors = {
            name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_(
                1.0 if name.endswith("norm.weight") else 0.0, 0.02, generator=generator
            )
            for name in group
        }
        save_file(tensors, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, file)
    (directory / hugging_face.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (directory / hugging_face.CONFIG).write_text(json.dumps(CONFIG))


def main() -> None:
    """Make the model unless it exists, convert it, and print the figures."""
    directory = harness.parser(__doc__, directory=True).parse_args().directory
    source, nemo, back = directory / "source", directory / "nemo", directory / "back"
    if not source.exists():
        make(source)
    for name, arguments in {
        "to NeMo": ("--source", str(source), "--destination", str(nemo)),
        "to Hugging Face": ("--source", str(nemo), "--destination", str(back), "--to", "hf"),
    }.items():
        files = [file.stat().st_size for file in Path(arguments[1]).rglob("*") if file.is_file()]
        seconds, peak = harness.measured([sys.executable, "-m", "llama31", "convert", *arguments])
        limit = sum(files) + max(files)
        print(f"{name}: {seconds:.0f} s, peak {peak / 1e9:.2f} GB; model and largest file {limit / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
