"""Get Megatron's request for an asynchronous save out of NeMo, which would execute it in its own way."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest


class _Kept(_WrappingCheckpointIO):
    """NeMo's writer of checkpoints, keeping the request that it returns."""

    request: AsyncRequest | None = None

    def save_checkpoint(self, *arguments: Any, **others: Any) -> None:
        self.request = self.checkpoint_io.save_checkpoint(*arguments, **others)


def async_request(trainer: Trainer, path: Path) -> AsyncRequest:
    """Prepare the save of a trainer's state to a directory, and return the request for the rest; collective.

    The state is gathered, but as a rank's parameters change, so does the state in the request until it is copied.
    """
    strategy: Any = trainer.strategy
    usual = strategy.checkpoint_io
    kept = _Kept(usual)
    usual.async_save, strategy.checkpoint_io = True, kept
    try:
        trainer.save_checkpoint(path)
    finally:
        usual.async_save, strategy.checkpoint_io = False, usual
    assert kept.request
    return kept.request
