"""NeMo's strategy, with what loading a checkpoint needs where Transformer Engine or CUDA is absent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from nemo import lightning as nl
from nemo.lightning.io import pl as nemo_io
from nemo.lightning.pytorch.strategies.utils import RestoreConfig

from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.safe_unpickle import read_table
from llama31.run_dir.start_point import Start
from llama31.training import optimizer


class ResumableStrategy(nl.MegatronStrategy):
    """Megatron's strategy, whose AdamW is torch's fused one where Transformer Engine is absent, and can be loaded."""

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        optimizer.fuse(optimizer.with_adamw(self.optimizers))

    def load_checkpoint(self, checkpoint_path: str | Path, selective_restore: bool = False) -> dict[str, Any]:
        if self.should_restore_optimizer_states(selective_restore):
            optimizer.initialise(optimizer.with_adamw(self.optimizers))
        with _without_cuda() if self.root_device.type == "cpu" else nullcontext():
            return super().load_checkpoint(checkpoint_path, selective_restore)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any], selective_restore: bool = False) -> None:
        found = optimizer.with_adamw(self.optimizers)
        with optimizer.loadable(found):
            super().load_optimizer_state_dict(checkpoint, selective_restore)
        optimizer.fuse(found)

    def validation_step(self, dataloader_iter: Iterator[Any], *arguments: Any, **others: Any) -> Any:
        if self.lightning_module.config.cuda_graph_scope == "full_iteration":
            dataloader_iter = self._counted(dataloader_iter)
        return super().validation_step(dataloader_iter, *arguments, **others)

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches of an evaluation without fingerprints, and call the callbacks that count them.

        A graph that is replayed calls no callbacks, and reads its batches in Python before.
        """
        for batch, *rest in batches:
            counted = {"fingerprint": batch.pop("fingerprint", ())}
            self.model.callbacks.event("on_megatron_microbatch_start", step=None, batch=counted, forward_callback=None)
            yield (batch, *rest)


@contextmanager
def _without_cuda() -> Iterator[None]:
    """Keep NeMo, within this context, from moving a checkpoint's tensors to the current CUDA device."""
    stock = nemo_io._fix_tensors_device
    nemo_io._fix_tensors_device = lambda checkpoint: checkpoint
    try:
        yield
    finally:
        nemo_io._fix_tensors_device = stock


def load(trainer: Trainer, start: Start) -> None:
    """Set what a trainer loads when it starts: a whole checkpoint, only its weights, or nothing.

    Raises UserError if the checkpoint's table of contents is not what torch writes.
    """
    if not start.checkpoint:
        return
    read_table(Path(start.checkpoint) / nemo.WEIGHTS)
    if start.weights_only:
        trainer.strategy.restore_config = RestoreConfig(path=start.checkpoint, load_artifacts=False)
    else:
        trainer.ckpt_path = start.checkpoint
