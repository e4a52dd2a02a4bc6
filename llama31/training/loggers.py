"""TensorBoard and Weights & Biases: where they write, what a run is called there, and how steps are counted."""

import re
from pathlib import Path
from typing import Any

import nemo_run as run
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from llama31.config import paths

LONGEST_ID = 128  # characters that Weights & Biases takes


def tensorboard(run_dir: Path) -> run.Config[TensorBoardLogger]:
    """TensorBoard's events of a job, in its run directory."""
    return run.Config(TensorBoardLogger, save_dir=str(run_dir), name=paths.TENSORBOARD, version="")


def weights_and_biases(run_dir: Path, name: str) -> run.Config[WandbLogger]:
    """The run of Weights & Biases that all jobs of a chain write to; its own variables say where and how.

    Args:
        run_dir: Directory of the job, which keeps its files.
        name: Name of the run; it is the id, too, by which a later job resumes it.
    """
    quiet = {"console": "off", "quiet": True}  # what a rank prints is in its log already
    identity = re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-LONGEST_ID:]
    return run.Config(WandbLogger, name=name, id=identity, save_dir=str(run_dir), settings=quiet)


class LoggedSteps(Callback):
    """Makes loggers count steps as the metrics and the MLPerf log do: step N is the run's N-th optimizer step.

    NeMo logs the step before as "step" with the training loss, which Lightning takes for its x axis, and Lightning's
    own count, which it uses for validation, is saved before it is raised: it fell back by one with each job.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Sets the step of what is logged next: of this training step, and of an evaluation after it."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        step = torch.tensor(float(trainer.global_step))  # on the CPU, so that nothing waits for the GPU
        for key in ("step", "global_step"):
            pl_module.log(key, step, batch_size=1)
