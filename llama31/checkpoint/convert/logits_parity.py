"""Compare two checkpoints by the fp32 logits of transformers' Llama and Megatron's.

Each model is built from its own checkpoint's configuration (`reference_config`). Weights are loaded before the forward
pass of each module and dropped after it, so that only one module's are in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama31.checkpoint.convert import megatron_model, reference_config
from llama31.checkpoint.formats import parameter_mapping
from llama31.checkpoint.formats.hugging_face import HuggingFaceCheckpoint
from llama31.checkpoint.formats.nemo import NemoCheckpoint

TOKENS = 256  # in the batch; enough for RoPE's scaling to matter


@dataclass(frozen=True)
class Difference:
    """Absolute difference of two models' logits over all tokens of the batch and all ids of the vocabulary."""

    tokens: int
    maximum: float
    mean: float
    limit: float = 1e-4
    """Largest difference that passes."""

    @property
    def passes(self) -> bool:
        """Whether the models are the same; false for NaN."""
        return self.maximum <= self.limit


def compare(theirs: HuggingFaceCheckpoint, ours: NemoCheckpoint, on_read: Callable[[int], object]) -> Difference:
    """Run both models on the same random tokens, within `one_rank`. Calls `on_read` with each parameter's bytes."""
    llama = ours.architecture
    generator = torch.Generator().manual_seed(0)
    length = min(TOKENS, llama.max_position_embeddings)
    tokens = torch.randint(llama.vocab_size, (1, length), generator=generator)
    with torch.inference_mode():
        expected = hugging_face_logits(theirs, tokens, on_read)
        difference = megatron_logits(ours, tokens, on_read).sub_(expected).abs_()
    return Difference(length, difference.max().item(), difference.mean().item())


def hugging_face_logits(checkpoint: HuggingFaceCheckpoint, tokens: Tensor, on_read: Callable[[int], object]) -> Tensor:
    """Return the logits of transformers' model, [batch, sequence, vocabulary], for token ids [batch, sequence]."""
    config = reference_config.of_hugging_face(checkpoint.path)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # frequencies, which are not weights

    def load(name: str) -> Tensor:
        return checkpoint.tensor(name if name in checkpoint.tensors else "model.embed_tokens.weight")  # tied

    _load_on_demand(model, load, on_read)
    return model(tokens, use_cache=False).logits


def megatron_logits(checkpoint: NemoCheckpoint, tokens: Tensor, on_read: Callable[[int], object]) -> Tensor:
    """Return the logits of Megatron's model, [batch, sequence, vocabulary], for token ids [batch, sequence]."""
    config = reference_config.of_nemo(checkpoint.path)
    rows = checkpoint.tensors[parameter_mapping.EMBEDDING].shape[0]
    # A tied output layer would share the embedding's memory; an untied one computes the same.
    model = megatron_model.empty_model(config, rows, share_embeddings_and_output_weights=False)
    locations = megatron_model.stored_as(model, parameter_mapping.PREFIX)

    def load(name: str) -> Tensor:
        key, layer = locations[name]
        return checkpoint.tensor(key if key in checkpoint.tensors else parameter_mapping.EMBEDDING, layer)

    _load_on_demand(model, load, on_read)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return model(tokens, positions, attention_mask=None)[..., : checkpoint.architecture.vocab_size]


def _load_on_demand(model: nn.Module, load: Callable[[str], Tensor], on_read: Callable[[int], object]) -> None:
    """Make each module of an empty model load its weights as fp32 before its forward pass, and drop them after it."""
    for prefix, module in model.named_modules():
        empty = dict(module.named_parameters(recurse=False))
        if not empty:
            continue

        def fetch(module: nn.Module, *_: Any, prefix: str = prefix, names: tuple[str, ...] = tuple(empty)) -> None:
            for name in names:
                stored = load(f"{prefix}.{name}")
                on_read(stored.nbytes)
                setattr(module, name, nn.Parameter(stored.float(), requires_grad=False))

        def drop(module: nn.Module, *_: Any, empty: dict[str, nn.Parameter] = empty) -> None:
            for name, parameter in empty.items():
                setattr(module, name, parameter)

        module.register_forward_pre_hook(fetch)
        module.register_forward_hook(drop)
