"""Builds what a recipe asks for as NeMo does when training starts."""

from dataclasses import dataclass
from types import SimpleNamespace

import fiddle
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.transformer_config import TransformerConfig
from nemo.collections import llm
from nemo.lightning import MegatronStrategy
from recipes import CUDA_WITH_ENGINE, recipe

from llama31.model.device import Backend
from llama31.settings import Settings

VOCABULARY = 128_256  # Llama 3.1's tokenizer


@dataclass
class Connected:
    """What a run's objects hold when NeMo has put settings of strategy and precision into all of them."""

    model: TransformerConfig
    strategy: MegatronStrategy
    ddp: DistributedDataParallelConfig
    optim: OptimizerConfig


def connected(settings: Settings, backend: Backend = CUDA_WITH_ENGINE) -> Connected:
    """Builds model, strategy, precision and optimizer, and connects them as NeMo does when training starts."""
    asked = recipe(settings, backend)
    model = llm.LlamaModel(fiddle.build(asked.model.config), tokenizer=SimpleNamespace(vocab_size=VOCABULARY))
    strategy = fiddle.build(asked.trainer.strategy)
    strategy._precision_plugin = fiddle.build(asked.trainer.plugins)
    fiddle.build(asked.optim).connect(model)
    strategy.connect(model)
    return Connected(model.config, strategy, strategy.ddp_config, model.optim.config)
