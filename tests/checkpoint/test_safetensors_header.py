"""Files written here have the bytes that safetensors itself would write."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from llama31.checkpoint.formats import safetensors_header


def test_it_is_the_header_that_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.ones(3, 5, dtype=torch.bfloat16),
        "a.ü": torch.ones(7, dtype=torch.float16),
        "d": torch.ones(2, 2, dtype=torch.float32),
        "c": torch.ones(1, dtype=torch.float32),
        "a": torch.ones(4, dtype=torch.bfloat16),
        "e": torch.ones(4, 1, dtype=torch.float16),
    }
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    contents = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in tensors.items()
    }
    parts = [tensors[name].view(torch.uint8).numpy().tobytes() for name in safetensors_header.in_order(contents)]
    assert (tmp_path / "file").read_bytes() == safetensors_header.header(contents) + b"".join(parts)
