"""Read the results of conversions; time limit of a conversion in its own process."""

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM

TIMEOUT = 300  # seconds; the processes here take half a minute at most


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    return found


def logits(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Load a checkpoint by transformers."""
    with torch.inference_mode():
        return LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)(tokens).logits


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)
