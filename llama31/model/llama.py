"""Llama 3.1 for NeMo: model configuration, layers, and the step functions between data and model."""

from collections.abc import Iterator
from typing import Any

import nemo_run as run
import torch
from nemo.collections.llm.gpt.model.base import gpt_data_step
from nemo.collections.llm.gpt.model.llama import Llama31Config, Llama31Config8B, LlamaConfig

from llama31 import rules
from llama31.config import cuda_graphs, recompute
from llama31.config.model_sizes import ROTARY_BASE, SIZES
from llama31.model.device import Backend
from llama31.model.layers import cpu_layer_spec, torch_layer_spec
from llama31.model.ranges import RANGES
from llama31.settings import Precision, Settings


def model_config(settings: Settings, backend: Backend) -> run.Config[Llama31Config]:
    """Return NeMo's configuration of the model SIZE for a backend.

    `8b` is NeMo's Llama31Config8B; the other sizes differ from it only in their dimensions. The vocabulary is the
    tokenizer's, padded by Megatron to a multiple of 128 x tensor-parallel size.
    """
    shape = SIZES[settings.size]
    config = (
        run.Config(Llama31Config8B)
        if settings.size == rules.SIZE
        else run.Config(
            Llama31Config,
            num_layers=shape.layers,
            hidden_size=shape.hidden_size,
            ffn_hidden_size=shape.ffn_hidden_size,
            num_attention_heads=shape.attention_heads,
            num_query_groups=shape.key_value_heads,
            rotary_base=ROTARY_BASE,
        )
    )
    config.seq_length = settings.seq_length
    config.attention_dropout = config.hidden_dropout = rules.DROPOUT
    config.data_step_fn = data_step
    config.forward_step_fn = forward_step
    if settings.virtual_pipeline_size > 1:
        # Batched sends confuse activations and gradients if two pipeline ranks exchange both. Megatron-LM's argument
        # checks refuse that combination; the library itself computes a wrong loss.
        config.overlap_p2p_comm = True
        config.batch_p2p_comm = False
    if settings.precision is Precision.fp32:
        config.cross_entropy_loss_fusion = False  # its gradient is bf16 even if the logits are fp32
    for name, value in {**recompute.arguments(settings), **cuda_graphs.arguments(settings)}.items():
        setattr(config, name, value)
    adapt(config, backend)
    return config


def adapt(config: run.Config[LlamaConfig], backend: Backend) -> None:
    """Turn off what the backend does not have."""
    if not backend.transformer_engine:
        config.transformer_layer_spec = torch_layer_spec
        without_kernels(config)
    if backend.accelerator == "cpu":
        config.transformer_layer_spec = cpu_layer_spec
        config.use_te_activation_func = True  # Megatron's name for: take the activation of the layer spec
        config.use_cpu_initialization = True
        # gloo sends in the background from memory that this option would free.
        config.deallocate_pipeline_outputs = False
        # torch compiles these for CUDA at run time.
        config.bias_activation_fusion = False
        config.bias_dropout_fusion = False
        config.cross_entropy_loss_fusion = False


def without_kernels(config: run.Config[LlamaConfig]) -> None:
    """Turn off the kernels of Transformer Engine and Apex."""
    config.gradient_accumulation_fusion = False
    config.apply_rope_fusion = False
    config.masked_softmax_fusion = False
    config.persist_layer_norm = False


def data_step(dataloader_iter: Iterator) -> dict[str, Any]:
    """Run NeMo's data step, and keep the fingerprints of an evaluation's sequences in the batch.

    They are of whole sequences, so context parallelism must not slice them. With a graph of the whole iteration, NeMo
    has read the batches before, and gives them without their index.
    """
    with RANGES.within("data"):
        given = next(dataloader_iter)
    batch, *rest = (given, 0, 0) if isinstance(given, dict) else given
    fingerprints = batch.pop("fingerprint", None)
    step = gpt_data_step(iter([(batch, *rest)]))
    return step if fingerprints is None else {**step, "fingerprint": fingerprints}


def forward_step(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return the loss of each token. Attention is causal in every backend, so there is no mask."""
    return model(
        input_ids=batch["tokens"], position_ids=batch["position_ids"], labels=batch["labels"], attention_mask=None
    )
