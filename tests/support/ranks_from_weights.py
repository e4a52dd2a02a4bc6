"""A rank of a run that saves its weights, or starts from saved ones: RUN_DIR WEIGHTS_DIR, under torchrun.

The run is the product's own (`llama31.train`); one callback more saves or loads the weights where training starts,
through Megatron's distributed checkpoints, which any parallel layout can read. The run that saves them also leaves
the initial and the final weights as torch files. Another leaves in RUN_DIR the bytes that each rank allocated.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core import parallel_state

BUCKET = 20_000  # weights, so that gradients that are reduced while others are computed are in several buckets
SHARED, INITIAL, FINAL, ALLOCATED = "shared", "initial.pt", "final.pt", "allocated-{rank}.json"


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


class AllocatedMemory(Callback):
    """Writes down what model and optimizer hold after training, in bytes.

    But `padding` counts numbers, `buckets` parts of the gradients that are reduced by themselves, and `fused` says
    whether the optimizer is torch's fused one.
    """

    def __init__(self, run_dir: Path):
        self.run_dir = run_dir

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        chunks = list(trainer.strategy.megatron_parallel)
        parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
        buffers = [buffer for chunk in chunks for buffer in chunk.buffers]
        optimizer = trainer.strategy.optimizers[0].mcore_optimizer
        held = [
            tensor
            for part in getattr(optimizer, "chained_optimizers", [optimizer])
            for tensor in (
                *(master for group in part.shard_fp32_from_float16_groups for master in group),
                *(state[name] for state in part.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")),
            )
        ]
        allocated = {
            "stage": parallel_state.get_pipeline_model_parallel_rank(),
            "weights": sum(parameter.nbytes for parameter in parameters),
            "gradients": sum(parameter.main_grad.nbytes for parameter in parameters),
            "optimizer": sum(tensor.nbytes for tensor in held),
            "buckets": sum(len(buffer.buckets) for buffer in buffers),
            "fused": all(
                group["fused"]
                for part in getattr(optimizer, "chained_optimizers", [optimizer])
                for group in part.optimizer.param_groups
            ),
            "padding": sum(buffer.numel for buffer in buffers) - sum(parameter.numel() for parameter in parameters),
        }
        (self.run_dir / ALLOCATED.format(rank=trainer.global_rank)).write_text(json.dumps(allocated))


def main() -> None:
    import llama31.recipe
    from llama31.train import train

    stock = llama31.recipe.pretrain_recipe

    def with_weights(*arguments):
        recipe = stock(*arguments)
        recipe.trainer.strategy.ddp.bucket_size = BUCKET
        recipe.trainer.callbacks += [SharedWeights(Path(sys.argv[2])), AllocatedMemory(Path(sys.argv[1]))]
        return recipe

    llama31.recipe.pretrain_recipe = with_weights
    _, orderly = train(Path(sys.argv[1]))
    for child in multiprocessing.active_children():  # Megatron's writer of checkpoints
        child.terminate()
    os._exit(0 if orderly else 1)


if __name__ == "__main__":
    main()
