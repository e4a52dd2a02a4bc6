"""A rank of a run that saves its weights, or starts from saved ones: RUN_DIR WEIGHTS_DIR, under torchrun.

The run is the product's own (`llama31.train`); one callback more saves or loads the weights where training starts,
through Megatron's distributed checkpoints, which any parallel layout can read. The run that saves them also leaves
the initial and the final weights as torch files.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

SHARED, INITIAL, FINAL = "shared", "initial.pt", "final.pt"


class SharedWeights(Callback):
    """Loads the initial weights in `directory`; the run that finds none saves its own, of one rank."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.shared = directory / SHARED
        self.loads = self.shared.exists()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from megatron.core import dist_checkpointing

        state = trainer.strategy.megatron_parallel.sharded_state_dict()
        if self.loads:
            loaded = dist_checkpointing.load(state, str(self.shared))
            chunked = "model_0" in loaded  # one state for each chunk of an interleaved pipeline
            trainer.strategy.load_model_state_dict(loaded if chunked else {"state_dict": loaded})
        else:
            self.shared.mkdir(parents=True)
            dist_checkpointing.save(state, str(self.shared))
            self._save(trainer, INITIAL)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.loads:
            self._save(trainer, FINAL)

    def _save(self, trainer: Trainer, name: str) -> None:
        named = trainer.strategy.megatron_parallel.module.named_parameters()
        torch.save({name: value.detach() for name, value in named}, self.directory / name)


def main() -> None:
    import llama31.recipe
    from llama31.train import train

    stock = llama31.recipe.pretrain_recipe

    def with_weights(*arguments):
        recipe = stock(*arguments)
        recipe.trainer.callbacks.append(SharedWeights(Path(sys.argv[2])))
        return recipe

    llama31.recipe.pretrain_recipe = with_weights
    _, orderly = train(Path(sys.argv[1]))
    for child in multiprocessing.active_children():  # Megatron's writer of checkpoints
        child.terminate()
    os._exit(0 if orderly else 1)


if __name__ == "__main__":
    main()
