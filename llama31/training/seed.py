"""The run's seed for the initial weights."""

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.lightning import megatron_init


class SeedWeights(Callback):
    """Draws the initial weights from `seed`, 0 or more; NeMo of itself takes 1234 in every run.

    NeMo seeds when the ranks have joined and makes the model later; between them Lightning calls `setup`.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Seeds Python's, numpy's, torch's and Megatron's random states on this rank."""
        megatron_init._set_random_seed(self.seed + 1)  # as NeMo does, whose function takes positive seeds alone
