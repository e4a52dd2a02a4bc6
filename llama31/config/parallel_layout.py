"""Parallel layout of a run, and the arithmetic of its batches. Standard library only."""

from dataclasses import dataclass

from llama31 import rules
from llama31.settings import Settings


@dataclass(frozen=True)
class Layout:
    """Parallel sizes and batch counts derived from settings; made by `Layout.of`."""

    world_size: int
    """All ranks of the run."""
    model_parallel_size: int
    """Ranks that together hold one copy of the model: TP x PP x CP."""
    data_parallel_size: int
    """Copies of the model."""
    accumulation_steps: int
    """Micro batches that one rank accumulates per optimizer step."""
    eval_interval: int
    """Optimizer steps between evaluations."""

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        """Return the layout of settings. Quotients that do not divide are rounded down, to at least 1."""
        world = settings.nnodes * settings.gpus_per_node
        model = settings.tensor_parallel_size * settings.pipeline_parallel_size * settings.context_parallel_size
        data = max(1, world // model)
        return cls(
            world_size=world,
            model_parallel_size=model,
            data_parallel_size=data,
            accumulation_steps=max(1, settings.gbs // (data * settings.mbs)),
            eval_interval=rules.steps_between_evaluations(settings.eval_every, settings.gbs),
        )
