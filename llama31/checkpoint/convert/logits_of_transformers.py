"""Logits of a Hugging Face checkpoint by transformers' Llama."""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama31.checkpoint.convert import logits_parity, reference_config
from llama31.checkpoint.convert.load_on_demand import load_on_demand
from llama31.checkpoint.formats.hugging_face import HuggingFaceCheckpoint


def logits(checkpoint: HuggingFaceCheckpoint, on_read: Callable[[int], object]) -> Tensor:
    """Return the fp32 logits, [batch, sequence, vocabulary], of `logits_parity.tokens`.

    Calls `on_read` with the bytes of each parameter.
    """
    config = reference_config.of_hugging_face(checkpoint.path)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).eval()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # frequencies, which are not weights

    def load(name: str, into: Tensor | None) -> Tensor:
        tied = name not in checkpoint.tensors
        stored = checkpoint.tensor("model.embed_tokens.weight" if tied else name)
        return stored if into is None else into.copy_(stored)

    load_on_demand(model, model.model.embed_tokens, model.lm_head, load, on_read)
    tokens, positions = logits_parity.tokens(checkpoint.architecture), logits_parity.positions(checkpoint.architecture)
    with torch.inference_mode():
        # Without a mask, transformers takes a gap between positions for the start of another text.
        found: Tensor = model(tokens, torch.ones_like(tokens), positions[None], use_cache=False).logits
    return found
