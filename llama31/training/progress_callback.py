"""Tell the watch for hanging ranks of each step and each batch of an evaluation."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from llama31.run_dir.hang import Watch


class ReportProgress(Callback):
    """Record progress: the end of each training step and of each global batch of an evaluation."""

    def __init__(self, watch: Watch):
        self.watch = watch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that model, data and checkpoint are ready."""
        self.watch.progress("the start of training")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a step."""
        self.watch.progress(f"step {trainer.global_step}")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record a batch of the evaluation after a step."""
        self.watch.progress(f"batch {batch_idx + 1} of the evaluation at step {trainer.global_step}")
