"""TensorBoard and Weights & Biases: their directories, the name of a run, and how steps are counted."""

import re
from pathlib import Path
from typing import Any

import nemo_run as run
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from llama31.config import paths
from llama31.run_dir import job_chain
from llama31.run_dir.start_point import Start

LONGEST_ID = 128  # characters; the limit of Weights & Biases


def tensorboard(run_dir: Path, start: Start) -> run.Config[TensorBoardLogger]:
    """Return TensorBoard's logger, which writes to the run directory; all jobs of a chain write to the same one.

    Readers discard what an interrupted job logged beyond its last checkpoint, or all of it without a checkpoint.
    """
    purge_step = start.step + 1 if start.resumes else 0
    directory = str(job_chain.run_dir_of(run_dir))
    return run.Config(TensorBoardLogger, save_dir=directory, name=paths.TENSORBOARD, version="", purge_step=purge_step)


def weights_and_biases(run_dir: Path, name: str) -> run.Config[WandbLogger]:
    """Return the logger of Weights & Biases, which WANDB_* variables configure; its files are in `run_dir`.

    All jobs of a chain write to one run, whose name is also the id by which a later job resumes it.
    """
    quiet = {"console": "off", "quiet": True}  # each rank has a log already
    identity = re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)[-LONGEST_ID:]
    return run.Config(WandbLogger, name=name, id=identity, save_dir=str(run_dir), settings=quiet)


def mlflow(uri: str, name: str) -> list[run.Config[Logger]]:
    """Return the logger of MLflow, which MLFLOW_* variables configure; none if `uri` is empty.

    All jobs of a chain write to one run.
    """
    if not uri:
        return []
    from llama31.training.mlflow_run import MlflowRun  # imports MLflow

    return [run.Config(MlflowRun, name=name, uri=uri)]


class LoggedSteps(Callback):
    """Make loggers count steps as the metrics and the MLPerf log do: step N is the run's N-th optimizer step.

    With the training loss, NeMo logs the previous step as "step", which Lightning uses as the x axis. Lightning's own
    count, used for validation, is saved before it is incremented, so it falls back by one with each job.

    Training steps are logged every `interval` steps, at its multiples. Other steps are not read from the device: NeMo
    logs for a progress bar, for which Lightning reads every value after each step, although there is none.
    """

    def __init__(self, interval: int):
        self.interval = interval

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make `pl_module.log` ignore the progress bar, and keep Lightning from logging steps itself."""
        log = pl_module.log

        def without_progress_bar(name: str, value: Any, prog_bar: bool = False, **options: Any) -> None:
            log(name, value, prog_bar=False, **options)

        pl_module.log = without_progress_bar
        trainer._logger_connector.update_train_step_metrics = lambda: None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log this step if it is due, and set the step for the values of an evaluation after it."""
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        step = torch.tensor(float(trainer.global_step))  # on the CPU, to avoid a synchronisation
        for key in ("step", "global_step"):
            pl_module.log(key, step, batch_size=1)
        if trainer.global_step % self.interval == 0:
            connector = trainer._logger_connector
            connector.log_metrics(connector.metrics["log"])
