"""Warm up before the clock starts: steps on synthetic sequences, after which all state is what it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from nemo.lightning.megatron_parallel import CallbackConnector

from llama31.run_dir import startup_log
from llama31.training import rng_state

SEED = 0  # of the synthetic tokens: the ranks of a tensor-parallel group must see the same ones
DELAYED_SCALING = ("scaling_fwd", "scaling_bwd")
"""Keys of a Transformer Engine module's `fp8_meta`: its state in the forward and in the backward pass."""


class WarmUp(Callback):
    """Train and validate on random tokens before `on_train_start` of the callbacks after this one.

    The first steps of a job load kernels, open connections between ranks and allocate memory. A training step here is
    a whole one: forward, backward, reduction of gradients, AdamW, gathering of weights. The fp32 weights, the
    optimizer state, the statistics of delayed scaling in fp8 and the random states are copied to host memory before
    it, and back after it, in place, so that tensors stay where they are. Loader, schedule, loggers and other callbacks
    see nothing of these steps.

    Works after a checkpoint was loaded, too: Lightning loads it before it calls `on_train_start`.
    """

    def __init__(self, train_steps: int, validation_steps: int):
        self.train_steps = train_steps
        self.validation_steps = validation_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the steps; collective."""
        model, sampler = trainer.strategy.model, trainer.strategy.data_sampler
        optimizers = [part for one in trainer.strategy.optimizers for part in one.mcore_optimizer.chained_optimizers]
        batches = synthetic(pl_module.tokenizer.vocab_size, sampler.micro_batch_size, sampler.seq_len)
        shape = {
            "seq_length": sampler.seq_len,
            "micro_batch_size": sampler.micro_batch_size,
            "num_microbatches": sampler.num_microbatches,
        }
        states, statistics = rng_state.states(), delayed_scaling(model)
        with _without_callbacks(model):
            if self.train_steps:
                saved = [_Saved(part) for part in optimizers]
                for _ in range(self.train_steps):
                    _clear_gradients(model, trainer)
                    model.training_step(batches, **shape)
                    for wrapper in trainer.strategy.optimizers:
                        wrapper.mcore_optimizer.step()
                restore_delayed_scaling(model, statistics)  # first, since it scales weights that are kept in fp8
                for one in saved:
                    one.restore()
            with torch.no_grad():
                model.eval()
                for _ in range(self.validation_steps):
                    model.validation_step(batches, **shape)
                model.train()
        restore_delayed_scaling(model, statistics)
        _clear_gradients(model, trainer)
        rng_state.set_states(states)
        startup_log.reached(startup_log.WARMED)


def synthetic(vocab_size: int, micro_batch_size: int, seq_length: int) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield micro batches of random tokens without end, as a data loader of NeMo does: batch, its index, 0."""
    generator = torch.Generator().manual_seed(SEED)
    positions = torch.arange(seq_length).expand(micro_batch_size, -1).contiguous()
    while True:
        ids = torch.randint(vocab_size, (micro_batch_size, seq_length + 1), generator=generator)
        batch = {
            "tokens": ids[:, :-1].contiguous(),
            "labels": ids[:, 1:].contiguous(),
            "loss_mask": torch.ones(micro_batch_size, seq_length),
            "position_ids": positions,
        }
        yield batch, 0, 0


def delayed_scaling(model: torch.nn.Module) -> dict[Any, dict[str, list[torch.Tensor]]]:
    """Return copies of the scales and histories of Transformer Engine's delayed scaling, by recipe state."""
    return {
        state: {name: getattr(state, name).detach().cpu().clone() for name in ("scale", "amax_history")}
        for state in _scaling_states(model)
    }


def restore_delayed_scaling(model: torch.nn.Module, saved: dict[Any, dict[str, Any]]) -> None:
    """Set scales and histories as `delayed_scaling` returned them; those made since then as they begin: 1 and 0."""
    with torch.no_grad():
        for state in _scaling_states(model):
            former = saved.get(state)
            if former:
                state.scale.copy_(former["scale"])
                state.amax_history.copy_(former["amax_history"])
            else:
                state.scale.fill_(1)
                state.amax_history.zero_()


def _scaling_states(model: torch.nn.Module) -> Iterator[Any]:
    """Yield the states of delayed scaling, which other recipes do not have: they scale by the tensor in hand."""
    for module in model.modules():
        meta = getattr(module, "fp8_meta", {})
        for key in DELAYED_SCALING:
            if hasattr(meta.get(key), "amax_history"):
                yield meta[key]


class _Saved:
    """Weights and state of one of Megatron's distributed optimizers, in host memory."""

    def __init__(self, part: DistributedOptimizer):
        self.part = part
        self.groups = [
            {name: _copied(value) for name, value in group.items() if name != "params"}
            for group in part.optimizer.param_groups
        ]
        self.weights = [_copied(parameter) for parameter in self._parameters()]
        self.state = [
            {name: _copied(value) for name, value in part.optimizer.state.get(parameter, {}).items()}
            for parameter in self._parameters()
        ]

    def _parameters(self) -> list[torch.Tensor]:
        """Return this rank's shards of the fp32 weights."""
        return [parameter for group in self.part.optimizer.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def restore(self) -> None:
        """Set all values, and those that did not exist to 0, with which AdamW begins; then set the model's weights."""
        for group, saved in zip(self.part.optimizer.param_groups, self.groups, strict=True):
            for name in set(group) - {"params", *saved}:
                del group[name]  # the step counter of Transformer Engine's AdamW
            for name, value in saved.items():
                if isinstance(value, torch.Tensor):
                    group[name].copy_(value)
                else:
                    group[name] = value
        for parameter, weights, saved in zip(self._parameters(), self.weights, self.state, strict=True):
            parameter.copy_(weights)
            for name, value in self.part.optimizer.state.get(parameter, {}).items():
                value.copy_(saved[name]) if name in saved else value.zero_()
        # Megatron's own way from fp32 shards to the model's weights on all ranks, without AdamW.
        inner = self.part.optimizer
        self.part.optimizer = _NoStep(inner)
        self.part.step_with_ready_grads()
        self.part.optimizer = inner


class _NoStep:
    """An optimizer whose step changes nothing."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.param_groups, self.state = optimizer.param_groups, optimizer.state

    def step(self) -> None:
        """Do nothing."""


def _copied(value: Any) -> Any:
    """Return a copy of a tensor in host memory; other values as they are."""
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _clear_gradients(model: Any, trainer: Trainer) -> None:
    """Set all gradients to 0, as NeMo does before each step."""
    for chunk in model:
        chunk.zero_grad_buffer()
    for wrapper in trainer.strategy.optimizers:
        wrapper.zero_grad()


@contextmanager
def _without_callbacks(model: Any) -> Iterator[None]:
    """Hide steps within this context from other callbacks, such as NeMo's data sampler, which counts samples."""
    stock = model.callbacks
    model.callbacks = CallbackConnector()
    try:
        yield
    finally:
        model.callbacks = stock
