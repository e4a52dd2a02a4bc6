"""Configure this project's model and optimizer on Megatron-Core without NeMo: torch's layers, bf16 or fp32.

For GPU machines without NeMo. tests/dev/test_gpu_step.py compares it with what `llama31.recipe` builds with NeMo: the
same modules, and the same loss to the bit.
"""

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional

from llama31 import rules
from llama31.config import recompute
from llama31.config.model_sizes import INITIAL_DEVIATION, NORM_EPSILON, ROPE_FACTOR, ROTARY_BASE, SIZES
from llama31.model.layers import cpu_layer_spec, torch_layer_spec
from llama31.settings import Device, Precision, Settings


def configurations(settings: Settings) -> tuple[TransformerConfig, DistributedDataParallelConfig, OptimizerConfig]:
    """Return the configurations of model, data-parallel wrapper and optimizer for one rank."""
    shape, on_gpu = SIZES[settings.size], settings.device is Device.cuda
    mixed = settings.precision is not Precision.fp32
    model = TransformerConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.attention_heads,
        num_query_groups=shape.key_value_heads,
        normalization="RMSNorm",
        layernorm_epsilon=NORM_EPSILON,
        activation_func=functional.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        attention_dropout=rules.DROPOUT,
        hidden_dropout=rules.DROPOUT,
        init_method_std=INITIAL_DEVIATION,
        persist_layer_norm=False,
        bias_activation_fusion=on_gpu,
        bias_dropout_fusion=on_gpu,
        cross_entropy_loss_fusion=on_gpu and mixed,
        use_te_activation_func=not on_gpu,
        use_cpu_initialization=not on_gpu,
        bf16=mixed,
        params_dtype=torch.bfloat16 if mixed else torch.float32,
        **recompute.arguments(settings),
    )
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True, use_distributed_optimizer=True, average_in_collective=on_gpu
    )
    optimizer = OptimizerConfig(
        optimizer="adam",
        lr=settings.max_lr,
        adam_beta1=rules.ADAM_BETA1,
        adam_beta2=rules.ADAM_BETA2,
        adam_eps=rules.ADAM_EPSILON,
        weight_decay=rules.WEIGHT_DECAY,
        clip_grad=rules.CLIP_NORM,
        bf16=mixed,
        params_dtype=model.params_dtype,
        use_distributed_optimizer=True,
    )
    return model, ddp, optimizer


def model(config: TransformerConfig, settings: Settings, vocabulary: int) -> GPTModel:
    """Build the model. The vocabulary must be a multiple of 128: Megatron would pad it."""
    layer = torch_layer_spec if settings.device is Device.cuda else cpu_layer_spec
    return GPTModel(
        config,
        transformer_layer_spec=layer(config),
        vocab_size=vocabulary,
        max_sequence_length=settings.seq_length,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_base=ROTARY_BASE,
        rope_scaling=True,
        rope_scaling_factor=ROPE_FACTOR,
    )
