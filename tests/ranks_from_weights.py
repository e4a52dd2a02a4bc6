"""A rank of a run that saves its initial weights, or starts from saved ones: RUN_DIR WEIGHTS_DIR, under torchrun.

The run is the product's own (`llama31.train`); one callback more saves or loads the weights where training starts,
through Megatron's distributed checkpoints, which any parallel layout can read.
"""

import os
import sys
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class InitialWeights(Callback):
    """Loads the weights in `directory`; the run that finds none saves its own."""

    def __init__(self, directory: Path):
        self.directory = directory

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        from megatron.core import dist_checkpointing

        model = trainer.strategy.megatron_parallel
        state = model.sharded_state_dict()
        if self.directory.exists():
            loaded = dist_checkpointing.load(state, str(self.directory))
            chunked = "model_0" in loaded  # one state for each chunk of an interleaved pipeline
            trainer.strategy.load_model_state_dict(loaded if chunked else {"state_dict": loaded})
        else:
            self.directory.mkdir()
            dist_checkpointing.save(state, str(self.directory))


def main() -> None:
    import llama31.recipe
    from llama31.train import train

    stock = llama31.recipe.pretrain_recipe

    def with_weights(*arguments):
        recipe = stock(*arguments)
        recipe.trainer.callbacks = [InitialWeights(Path(sys.argv[2]))]
        return recipe

    llama31.recipe.pretrain_recipe = with_weights
    _, orderly = train(Path(sys.argv[1]))
    os._exit(0 if orderly else 1)


if __name__ == "__main__":
    main()
