"""Logits of a NeMo checkpoint by Megatron's model."""

from collections.abc import Callable

import torch
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
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.inference_mode():
        found: Tensor = model(tokens, positions, attention_mask=None)
    return found[..., : checkpoint.architecture.vocab_size]
