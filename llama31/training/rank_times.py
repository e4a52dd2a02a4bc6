"""Which ranks are slow: the time that each rank computes in a step before it waits for the others."""

import os
import socket
import statistics
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from megatron.core.utils import get_model_config

from llama31.common import rank_messages
from llama31.run_dir.events import Observer, RankTime, RankTimes

SLOWEST = 3  # ranks to report
LEAST = 10  # steps to average over, so that short intervals neither cost much nor fill the metrics


class RankTimer(Callback):
    """Measure each rank's time from the start of a step to the reduction of its gradients, and report the slowest.

    All ranks take the same time for a whole step, since they wait for each other in that reduction; the time before it
    is the rank's own. With tensor or pipeline parallelism it contains waiting for the ranks of the same model, so a
    slow rank makes all of its group look slow. On a GPU the time is that of the device, by CUDA events.

    Every `interval` steps, and at least 10, the ranks exchange their means; the observers of rank 0 get them.
    """

    def __init__(self, interval: int, observers: list[Observer]):
        self.interval = interval
        self.observers = observers
        self._names: list[tuple[str, str]] = []
        self._on_gpu = False
        self._began: Any = None
        self._spans: list[tuple[Any, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the names of all ranks, and wrap the reduction of gradients; collective."""
        self._on_gpu = torch.cuda.is_available()  # False within cpu_backend(), also on a machine with GPUs
        device = f"GPU {os.environ.get('LOCAL_RANK', '0')}" if self._on_gpu else "CPU"
        self._names = [(host, name) for host, name in rank_messages.all_gather([socket.gethostname(), device])]
        config = get_model_config(pl_module)
        reduce_gradients = config.finalize_model_grads_func

        def timed(*arguments: Any, **others: Any) -> Any:
            if self._began is not None:
                self._spans.append((self._began, self._now()))
                self._began = None
            return reduce_gradients(*arguments, **others)

        config.finalize_model_grads_func = timed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the start of a step."""
        self._began = self._now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Exchange the times if they are due; collective."""
        step = trainer.global_step
        if step % self.interval or len(self._spans) < LEAST:
            return
        steps, own = len(self._spans), self._mean()
        times = [torch.zeros_like(own) for _ in self._names]
        torch.distributed.all_gather(times, own)
        if not trainer.is_global_zero:
            return
        seconds = torch.cat(times).tolist()
        order = sorted(range(len(seconds)), key=lambda rank: -seconds[rank])[:SLOWEST]
        slowest = tuple(RankTime(rank, *self._names[rank], seconds[rank]) for rank in order)
        for observer in self.observers:
            observer.ranks_timed(RankTimes(step, steps, statistics.median(seconds), slowest))

    def _now(self) -> Any:
        """Return the time: an event of the GPU, else seconds."""
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _mean(self) -> torch.Tensor:
        """Return the mean of the times so far, seconds, and forget them."""
        spans, self._spans = self._spans, []
        if self._on_gpu:
            spans[-1][1].synchronize()
            seconds = [begin.elapsed_time(end) / 1000 for begin, end in spans]
        else:
            seconds = [end - begin for begin, end in spans]
        return torch.tensor([statistics.fmean(seconds)], dtype=torch.float64, device=torch.cuda.current_device())
