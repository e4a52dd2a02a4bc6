"""Contenders of the benches of a training step: a run of this project, and Hugging Face's model in a plain loop."""

import math
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dev.bench.contender import timed
from llama31.config.model_sizes import (
    HIGH_FREQUENCY_FACTOR,
    LENGTH_BEFORE_STRETCHING,
    LOW_FREQUENCY_FACTOR,
    NORM_EPSILON,
    ROPE_FACTOR,
    ROTARY_BASE,
    SIZES,
    Shape,
)
from llama31.settings import Settings

SIZE = "bench"
"""Value of SIZE for the shape in these processes."""


def product(connection: Connection, run_dir: Path, shape: Shape, port: int) -> None:
    """Train as a rank of a run does, with the loops `run` and `bare`: with NeMo and Lightning, and on the same Megatron
    model, optimizer and batches without them. `profile` returns the time of the operations of `bare`."""
    SIZES[SIZE] = shape
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from llama31 import train
    from llama31.training.benchmark_callback import BenchmarkCallback

    paced = _Paced(connection)
    original = BenchmarkCallback.on_train_batch_end

    def on_train_batch_end(self: BenchmarkCallback, trainer: Any, *arguments: Any) -> None:
        original(self, trainer, *arguments)
        paced.step_ended(trainer)
        self._clock += paced.waited

    BenchmarkCallback.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
    train.train(run_dir)


class _Paced:
    """Runs the training loop for the requested number of steps at a time, and bare steps in between."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.left = 0
        self.seconds: list[float] = []
        self.waited = 0.0
        self.clock = math.nan
        self.bare: Callable[[], None] | None = None

    def step_ended(self, trainer: Any) -> None:
        now = time.perf_counter()
        self.waited = 0.0
        if self.left:
            self.seconds.append(now - self.clock)
            self.left -= 1
        if not self.left:
            self.connection.send(self.seconds or "ready")
            self._wait(trainer)
            self.waited = time.perf_counter() - now
        self.clock = time.perf_counter()

    def _wait(self, trainer: Any) -> None:
        """Run bare steps until the next request for steps of the run."""
        self.seconds = []
        while True:
            loop, steps = self.connection.recv()
            if loop == "run":
                self.left = steps
                return
            bare = self.bare = self.bare or _bare(trainer)
            if loop == "profile":
                self.connection.send(_profile(bare, steps))
                continue
            seconds = []
            for _ in range(steps):
                began = time.perf_counter()
                bare()
                seconds.append(time.perf_counter() - began)
            self.connection.send(seconds)


def _bare(trainer: Any) -> Callable[[], None]:
    """Return a training step on model and optimizer of a run, with a loop as in Megatron-LM's examples."""
    from megatron.core.pipeline_parallel import get_forward_backward_func

    chunks = list(trainer.model)
    optimizer = trainer.strategy.optimizers[0].mcore_optimizer
    loader = trainer.train_dataloader
    batches = [next(iter(loader)) for _ in range(2)]
    sampler = trainer.datamodule.data_sampler

    def loss(mask: Any, output: Any) -> tuple[Any, dict[str, Any]]:
        mean = (output.float() * mask).sum() / mask.sum()
        return mean, {"loss": mean.detach()}

    def forward(batch: Iterator[dict[str, Any]], model: Any) -> tuple[Any, Callable[[Any], Any]]:
        one = next(batch)
        output = model(
            input_ids=one["tokens"], position_ids=one["position_ids"], labels=one["labels"], attention_mask=None
        )
        return output, lambda tensor: loss(one["loss_mask"], tensor)

    forward_backward = get_forward_backward_func()
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        for chunk in chunks:
            chunk.zero_grad_buffer()
        optimizer.zero_grad()
        losses = forward_backward(
            forward_step_func=forward,
            data_iterator=iter(batches[count % 2 :]),
            model=chunks,
            num_microbatches=1,
            seq_length=sampler.seq_len,
            micro_batch_size=sampler.micro_batch_size,
            forward_only=False,
        )
        optimizer.step()
        float(losses[0]["loss"])

    return step


def _profile(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Return the seconds per step of each of torch's operations, without the operations that it calls."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            step()
    return {event.key: event.self_cpu_time_total / 1e6 / steps for event in profile.key_averages()}


def hugging_face(connection: Connection, settings: Settings, shape: Shape, vocabulary: int) -> None:
    """Train Hugging Face's Llama in the loop `run`: SDPA, fused AdamW, clipping, random weights and tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llama31 import rules

    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=vocabulary,
        max_position_embeddings=settings.seq_length,
        rms_norm_eps=NORM_EPSILON,
        rope_theta=ROTARY_BASE,
        rope_scaling={
            "rope_type": "llama3",
            "factor": ROPE_FACTOR,
            "low_freq_factor": LOW_FREQUENCY_FACTOR,
            "high_freq_factor": HIGH_FREQUENCY_FACTOR,
            "original_max_position_embeddings": LENGTH_BEFORE_STRETCHING,
        },
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == shape.parameters(vocabulary), f"{parameters} parameters"
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.max_lr,
        betas=(rules.ADAM_BETA1, rules.ADAM_BETA2),
        eps=rules.ADAM_EPSILON,
        weight_decay=rules.WEIGHT_DECAY,
        fused=True,
    )
    bf16 = settings.precision.value == "bf16"

    def step() -> None:
        tokens = torch.randint(vocabulary, (settings.gbs, settings.seq_length))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), rules.CLIP_NORM)
        optimizer.step()
        loss.item()

    timed(connection, {"run": step})
