"""How a run is spread over its ranks, and the arithmetic of its batches. Standard library alone."""

from dataclasses import dataclass

from llama31 import rules
from llama31.settings import Settings


@dataclass(frozen=True)
class Layout:
    """Numbers that follow from the settings of a run; see `Layout.of`."""

    world_size: int
    """Ranks in all."""
    model_parallel_size: int
    """Ranks that hold one copy of the model and share its sequences: TP x PP x CP."""
    data_parallel_size: int
    """Copies of the model."""
    accumulation_steps: int
    """Micro batches that one rank adds up to an optimizer step."""
    eval_interval: int
    """Optimizer steps between evaluations."""

    @classmethod
    def of(cls, settings: Settings) -> "Layout":
        """Layout of checked settings; where they do not divide, the quotients are rounded down, at least 1."""
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
