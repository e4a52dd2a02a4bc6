"""Random states: seeded for the initial weights, and saved in checkpoints so that a resumed run draws the same."""

import io
import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from nemo.lightning import megatron_init

from llama31.common import rank_messages


class SeedWeights(Callback):
    """Draw the initial weights from `seed`, 0 or more; NeMo's default is 1234 in every run.

    NeMo seeds once the ranks have joined, and builds the model later. Lightning calls `setup` in between.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Seed Python's, numpy's, torch's and Megatron's generators on this rank."""
        megatron_init._set_random_seed(self.seed + 1)  # NeMo's own function accepts only positive seeds


class RandomStates(Callback):
    """Save and restore the states of Python's, numpy's, torch's and Megatron's generators on each rank.

    Lightning stores `state_dict` in the checkpoint and passes it to `load_state_dict`. With another number of ranks the
    states of the seed are used instead; nothing in the training of this model draws.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks; collective, the same on each rank."""
        stored = io.BytesIO()
        torch.save(states(), stored)
        ranks = rank_messages.all_gather_bytes(stored.getvalue())
        return {"ranks": [torch.load(io.BytesIO(of_rank), weights_only=True) for of_rank in ranks]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep this rank's states until training starts, since loading data draws numbers."""
        ranks = state_dict["ranks"]
        if len(ranks) == torch.distributed.get_world_size():
            self._restored = ranks[torch.distributed.get_rank()]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the states at the first step: nothing draws between a save and the next step."""
        if self._restored is not None:
            set_states(self._restored)
            self._restored = None


def states() -> dict[str, Any]:
    """Return the states of this rank, as types that torch.load accepts with weights_only."""
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": (version, torch.tensor(state), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        "megatron": {name: _as_tensor(state) for name, state in get_cuda_rng_tracker().get_states().items()},
    }


def set_states(states: dict[str, Any]) -> None:
    """Set the states of this rank, as `states` returned them."""
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state.tolist()), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state(states["cuda"])
    tracker = get_cuda_rng_tracker()
    held = tracker.get_states()
    if any(isinstance(state, torch.Generator) for state in held.values()):
        for name, tensor in states["megatron"].items():
            held[name].set_state(tensor)  # in place: CUDA graphs hold the generator
    else:
        tracker.set_states(states["megatron"])


def _as_tensor(state: torch.Tensor | torch.Generator) -> torch.Tensor:
    """Return a tracked state as a tensor: for CUDA graphs the tracker holds generators, which change in place."""
    return state.get_state() if isinstance(state, torch.Generator) else state
