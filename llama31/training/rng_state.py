"""The random states of all ranks in a checkpoint, so that a run that goes on draws what it would have drawn."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker


class RandomStates(Callback):
    """Saves the states of Python's, numpy's, torch's and Megatron's generators on each rank, and restores them.

    Lightning keeps what `state_dict` gives in the checkpoint, and hands it to `load_state_dict`. Under another number
    of ranks each of them draws from the seed's own states instead; nothing in this model's training draws.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The states of all ranks; collective, and the same on each."""
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, _states())
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Notes this rank's states; they are set when training starts, for loading data draws from them."""
        ranks = state_dict["ranks"]
        if len(ranks) == torch.distributed.get_world_size():
            self._restored = ranks[torch.distributed.get_rank()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the states at the first step: between the last step before a save and the next one nothing draws."""
        if self._restored is not None:
            _set_states(self._restored)
            self._restored = None


def _states() -> dict[str, Any]:
    """States of this rank, of types that torch.load takes with weights_only."""
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": (version, torch.tensor(state), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        "megatron": get_cuda_rng_tracker().get_states(),
    }


def _set_states(states: dict[str, Any]) -> None:
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state.tolist()), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state(states["cuda"])
    get_cuda_rng_tracker().set_states(states["megatron"])
