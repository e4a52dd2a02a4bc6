"""NeMo's strategy with what it lacks for loading checkpoints where Transformer Engine is absent."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from megatron.core.optimizer.distrib_optimizer import HAVE_APEX_OR_TE, DistributedOptimizer
from nemo import lightning as nl
from nemo.lightning.io import pl as nemo_io
from nemo.lightning.pytorch.strategies.utils import RestoreConfig

from llama31.checkpoint.formats import nemo
from llama31.checkpoint.formats.safe_unpickle import read_table
from llama31.run_dir.start_point import Start


class ResumableStrategy(nl.MegatronStrategy):
    """Megatron's strategy, which can also load the state of torch's own AdamW into the distributed optimizer.

    Without Transformer Engine, Megatron-Core 0.15 uses torch's AdamW, which has a counter of steps for each parameter.
    Megatron saves them as one number, but cannot load it: it expects the optimizer to have made a step before, wants
    a counter among the tensors of each parameter, and then gives one counter to all of them, which each moves on.
    That AdamW is torch's fused one: one pass over parameters and state instead of a dozen.
    """

    def setup_optimizers(self, trainer: Trainer) -> None:
        super().setup_optimizers(trainer)
        self._fuse()

    def load_checkpoint(self, checkpoint_path: str | Path, selective_restore: bool = False) -> dict[str, Any]:
        if self.should_restore_optimizer_states(selective_restore):
            for distributed in self._with_torch_optimizer():
                for group in distributed.optimizer.param_groups:
                    for parameter in group["params"]:
                        distributed.optimizer.state[parameter] = {
                            "step": torch.zeros((), device=parameter.device),
                            "exp_avg": torch.zeros_like(parameter),
                            "exp_avg_sq": torch.zeros_like(parameter),
                        }
        with _without_cuda() if self.root_device.type == "cpu" else nullcontext():
            return super().load_checkpoint(checkpoint_path, selective_restore)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any], selective_restore: bool = False) -> None:
        for distributed in self._with_torch_optimizer():
            distributed._set_main_param_and_optimizer_states = partial(_set_with_step, distributed)
        super().load_optimizer_state_dict(checkpoint, selective_restore)
        for distributed in self._with_torch_optimizer():
            del distributed._set_main_param_and_optimizer_states
            for state in distributed.optimizer.state.values():
                state["step"] = state["step"].clone()
        self._fuse()

    def _fuse(self) -> None:
        """Megatron hands no such option on; a checkpoint brings the options that it was saved with."""
        for distributed in self._with_torch_optimizer():
            for group in distributed.optimizer.param_groups:
                group["fused"] = True

    def _with_torch_optimizer(self) -> Iterator[DistributedOptimizer]:
        """Megatron's optimizers, if they have torch's within."""
        if not HAVE_APEX_OR_TE:
            for optimizer in self.optimizers:
                yield from optimizer.mcore_optimizer.chained_optimizers


def _set_with_step(distributed: DistributedOptimizer, parameter: torch.nn.Parameter, tensors: dict[str, Any]) -> None:
    """Sets what was loaded for a parameter; its counter of steps is set already."""
    step = distributed._get_main_param_and_optimizer_states(parameter)["step"]
    DistributedOptimizer._set_main_param_and_optimizer_states(distributed, parameter, {**tensors, "step": step})


@contextmanager
def _without_cuda() -> Iterator[None]:
    """Within this context NeMo does not ask for the CUDA device that the tensors of a checkpoint belong on."""
    stock = nemo_io._fix_tensors_device
    nemo_io._fix_tensors_device = lambda checkpoint: checkpoint
    try:
        yield
    finally:
        nemo_io._fix_tensors_device = stock


def load(trainer: Trainer, start: Start) -> None:
    """Tells a trainer what to load when it begins: a whole checkpoint, the weights of one, or nothing.

    Raises UserError where the checkpoint's table of contents is not what torch writes.
    """
    if not start.checkpoint:
        return
    read_table(Path(start.checkpoint) / nemo.WEIGHTS)
    if start.weights_only:
        trainer.strategy.restore_config = RestoreConfig(path=start.checkpoint, load_artifacts=False)
    else:
        trainer.ckpt_path = start.checkpoint
