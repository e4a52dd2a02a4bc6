"""The narrowest number formats of a run, read from the objects that NeMo and Megatron-Core train with."""

from typing import Any

from nemo.lightning.pytorch.plugins.mixed_precision import MegatronMixedPrecision

from llama31.mlperf.log.writer import LowestPrecision
from llama31.training.strategy import ResumableStrategy


def lowest_precision(strategy: ResumableStrategy, plugin: MegatronMixedPrecision) -> LowestPrecision:
    """Return the formats of linear layers, attention and communication.

    Communication: the distributed optimizer gathers weights in the format in which they are kept, and with sequence
    parallelism Transformer Engine gathers the inputs of linear layers after it has quantised them
    (`gather_along_first_dim` in transformer_engine/pytorch/distributed.py). Gradients and the activations between
    pipeline stages are never narrower than bf16.
    """
    types: Any = plugin.dtype_config
    widest = "fp32" if types.fp32 else "bfloat16"
    linear = types.fp4 or ("fp8" if types.fp8 else widest)
    fp8_attention = types.fp8 and (types.fp8_dot_product_attention or types.fp8_multi_head_attention)
    gathers_fp8 = types.fp8 and types.fp8_param_gather and strategy.ddp_config.use_distributed_optimizer
    gathers_inputs = strategy.sequence_parallel and strategy.tensor_model_parallel_size > 1
    communication = linear if gathers_inputs else "fp8" if gathers_fp8 else widest
    return LowestPrecision(linear, "fp8" if fp8_attention else widest, communication)
