"""Seed the initial weights."""

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.lightning import megatron_init


class SeedWeights(Callback):
    """Draw the initial weights from `seed`, 0 or more; NeMo by itself uses 1234 in every run.

    NeMo seeds once the ranks have joined, and builds the model later. Lightning calls `setup` in between.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Seed Python's, numpy's, torch's and Megatron's generators on this rank."""
        megatron_init._set_random_seed(self.seed + 1)  # NeMo's own function accepts only positive seeds
