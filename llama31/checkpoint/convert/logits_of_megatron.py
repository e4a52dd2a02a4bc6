"""Logits of a NeMo checkpoint by Megatron's model."""

from collections.abc import Callable

import torch
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from llama31.checkpoint.convert import logits_parity, megatron_model, reference_config
from llama31.checkpoint.convert.load_on_demand import load_on_demand
from llama31.checkpoint.formats import parameter_mapping
from llama31.checkpoint.formats.nemo import NemoCheckpoint


def logits(checkpoint: NemoCheckpoint, on_read: Callable[[int], object]) -> Tensor:
    """Return the fp32 logits, [batch, sequence, vocabulary], of `logits_parity.tokens`, within `one_rank`.

    Calls `on_read` with the bytes of each parameter.
    """
    config = reference_config.of_nemo(checkpoint.path)
    rows = checkpoint.tensors[parameter_mapping.EMBEDDING].shape[0]
    # A tied output layer would share the embedding's memory; an untied one computes the same.
    model = megatron_model.empty_model(config, rows, share_embeddings_and_output_weights=False)
    locations = megatron_model.stored_as(model, parameter_mapping.PREFIX)

    def load(name: str, into: Tensor | None) -> Tensor:
        key, layer = locations[name]
        return checkpoint.tensor(key if key in checkpoint.tensors else parameter_mapping.EMBEDDING, layer, into)

    load_on_demand(model, model.embedding.word_embeddings, model.output_layer, load, on_read)
    tokens = logits_parity.tokens(checkpoint.architecture)
    positions = logits_parity.positions(checkpoint.architecture)
    _rotate_by(model, positions)
    with torch.inference_mode():
        found: Tensor = model(tokens, positions.expand_as(tokens), attention_mask=None)
    return found[..., : checkpoint.architecture.vocab_size]


def _rotate_by(model: GPTModel, positions: Tensor) -> None:
    """Have Megatron's RoPE use these positions, [sequence]; it would number the tokens from 0."""
    rotary = model.rotary_pos_emb
    rotary.register_forward_pre_hook(lambda _, arguments: (int(positions.max()) + 1, *arguments[1:]))
    rotary.register_forward_hook(lambda _, __, angles: angles[positions])
