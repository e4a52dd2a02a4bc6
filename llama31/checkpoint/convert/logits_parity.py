"""Whether two checkpoints are one model: transformers' Llama and Megatron's give the same logits, in fp32.

Each model is built from its own checkpoint's configuration (`reference_config`). Both run as they are, but for their
weights: these are read when a module needs them and dropped after it, so that one parameter at a time is in memory.
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

TOKENS = 256  # in the batch: enough for RoPE's scaling to show


@dataclass(frozen=True)
class Difference:
    """Between the logits of two models, over all tokens of the batch and all ids of the vocabulary."""

    tokens: int
    maximum: float
    mean: float
    limit: float = 1e-4
    """Largest difference that passes."""

    @property
    def passes(self) -> bool:
        """Whether the models are the same; NaN is not."""
        return self.maximum <= self.limit


def compare(theirs: HuggingFaceCheckpoint, ours: NemoCheckpoint, done: Callable[[int], object]) -> Difference:
    """Runs both models on the same random tokens; calls `done` with the bytes of each parameter. Needs `one_rank`."""
    llama = ours.architecture
    generator = torch.Generator().manual_seed(0)
    length = min(TOKENS, llama.max_position_embeddings)
    tokens = torch.randint(llama.vocab_size, (1, length), generator=generator)
    with torch.inference_mode():
        expected = hugging_face_logits(theirs, tokens, done)
        difference = megatron_logits(ours, tokens, done).sub_(expected).abs_()
    return Difference(length, difference.max().item(), difference.mean().item())


def hugging_face_logits(checkpoint: HuggingFaceCheckpoint, tokens: Tensor, done: Callable[[int], object]) -> Tensor:
    """Logits of transformers' model, [batch, sequence, vocabulary], for token ids [batch, sequence]."""
    config = reference_config.of_hugging_face(checkpoint.path)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # which has no weights, but frequencies

    def load(name: str) -> Tensor:
        return checkpoint.tensor(name if name in checkpoint.tensors else "model.embed_tokens.weight")  # tied

    _page(model, load, done)
    return model(tokens, use_cache=False).logits


def megatron_logits(checkpoint: NemoCheckpoint, tokens: Tensor, done: Callable[[int], object]) -> Tensor:
    """Logits of Megatron's model, [batch, sequence, vocabulary], for token ids [batch, sequence]."""
    config = reference_config.of_nemo(checkpoint.path)
    rows = checkpoint.tensors[parameter_mapping.EMBEDDING].shape[0]
    # A tied output layer takes the embedding's own memory; with a weight of its own it computes the same.
    model = megatron_model.empty_model(config, rows, share_embeddings_and_output_weights=False)
    places = megatron_model.stored_as(model, parameter_mapping.PREFIX)

    def load(name: str) -> Tensor:
        key, layer = places[name]
        return checkpoint.tensor(key if key in checkpoint.tensors else parameter_mapping.EMBEDDING, layer)

    _page(model, load, done)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return model(tokens, positions, attention_mask=None)[..., : checkpoint.architecture.vocab_size]


def _page(model: nn.Module, load: Callable[[str], Tensor], done: Callable[[int], object]) -> None:
    """Makes each module of a model without weights fetch its own before it runs, as fp32, and drop them after it."""
    for prefix, module in model.named_modules():
        empty = dict(module.named_parameters(recurse=False))
        if not empty:
            continue

        def fetch(module: nn.Module, *_: Any, prefix: str = prefix, names: tuple[str, ...] = tuple(empty)) -> None:
            for name in names:
                stored = load(f"{prefix}.{name}")
                done(stored.nbytes)
                setattr(module, name, nn.Parameter(stored.float(), requires_grad=False))

        def drop(module: nn.Module, *_: Any, empty: dict[str, nn.Parameter] = empty) -> None:
            for name, parameter in empty.items():
                setattr(module, name, parameter)

        module.register_forward_pre_hook(fetch)
        module.register_forward_hook(drop)
