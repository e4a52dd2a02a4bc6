"""Training loops of dev.bench.gpu_step: Hugging Face's Llama, and this project's model on Megatron."""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from dev.bench.harness import peak_memory
from llama31 import rules
from llama31.checkpoint.formats import architecture
from llama31.settings import Device, Precision, RecomputeGranularity, Settings

if TYPE_CHECKING:
    from dev.bench.gpu_step import Case

WARM_UP = 3
"""Steps that are not timed: they compile, allocate and choose kernels."""
Step = Callable[[], torch.Tensor]
"""Run one optimizer step and return the loss of its last micro batch."""


def device_found() -> dict[str, Any]:
    """Return name and memory in bytes of the GPU, empty and 0 without one, and torch's version."""
    there = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if there else SimpleNamespace(name="", total_memory=0)
    return {"name": properties.name, "memory": properties.total_memory, "torch": torch.__version__}


def train(case: "Case", steps: int) -> dict[str, Any]:
    """Train and return seconds of each step, peak memory in bytes and last loss, or {"failed": "out of memory"}."""
    on_gpu = case.settings.device is Device.cuda
    torch.manual_seed(1)
    try:
        with _only_rank(case) if case.trainer == "megatron" else contextlib.nullcontext():
            step = TRAINERS[case.trainer](case)
            seconds = []
            for number in range(WARM_UP + steps):
                began = time.perf_counter()
                loss = float(step())  # which waits for the GPU
                if on_gpu:
                    torch.cuda.synchronize()
                if number >= WARM_UP:
                    seconds.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    return {
        "seconds": seconds,
        "memory": torch.cuda.max_memory_allocated() if on_gpu else peak_memory(),
        "loss": loss,
    }


def tokens(settings: Settings, vocabulary: int) -> torch.Tensor:
    """Return a random micro batch, [sequences, tokens]."""
    return torch.randint(vocabulary, (settings.mbs, settings.seq_length), device=settings.device.name)


def hugging_face(case: "Case") -> Step:
    """Build a step of Hugging Face's Llama under autocast, with gradient clipping as in this project."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = case.settings
    fields = architecture.of_size(settings.size, case.vocabulary, settings.seq_length).hugging_face()
    with torch.device(settings.device.name):
        model = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="sdpa", use_cache=False))
    model.train()
    if settings.recompute_granularity is RecomputeGranularity.full:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.max_lr,
        betas=(rules.ADAM_BETA1, rules.ADAM_BETA2),
        eps=rules.ADAM_EPSILON,
        weight_decay=rules.WEIGHT_DECAY,
        fused=True,
    )
    forward = torch.compile(model) if case.compiled else model
    mixed = settings.precision is not Precision.fp32
    micro_batches = settings.gbs // settings.mbs

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        for _ in range(micro_batches):
            ids = tokens(settings, case.vocabulary)
            with torch.autocast(settings.device.name, torch.bfloat16, enabled=mixed):
                loss = forward(input_ids=ids, labels=ids).loss / micro_batches
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), rules.CLIP_NORM)
        optimizer.step()
        return loss.detach() * micro_batches

    return step


def megatron(case: "Case") -> Step:
    """Build a step of this project's model, precision, data-parallel wrapper and optimizer as in `llama31.recipe`."""
    from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
    from megatron.core.optimizer import get_megatron_optimizer
    from megatron.core.optimizer.distrib_optimizer import HAVE_APEX_OR_TE
    from megatron.core.transformer.module import Float16Module

    settings = case.settings
    model, config, ddp, optimization = (_of_recipe if nemo_is_there() else _of_megatron)(case)
    if settings.device is Device.cuda:
        model.cuda()
    if settings.precision is not Precision.fp32:
        model = Float16Module(config, model)
    model = DistributedDataParallel(config, ddp, model)
    model.train()
    optimizer = get_megatron_optimizer(optimization, [model])
    for group in optimizer.param_groups:
        group["lr"] = settings.max_lr  # the scheduler would set it
        if not HAVE_APEX_OR_TE:
            group["fused"] = True  # torch's optimizer
    positions = torch.arange(settings.seq_length, device=settings.device.name).expand(settings.mbs, -1)
    micro_batches = settings.gbs // settings.mbs

    def step() -> torch.Tensor:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        for _ in range(micro_batches):
            ids = tokens(settings, case.vocabulary)
            each = model(input_ids=ids, position_ids=positions, labels=ids, attention_mask=None)
            loss = each.float().mean() / micro_batches
            loss.backward()
        finalize_model_grads([model])
        optimizer.step()
        return loss.detach() * micro_batches

    return step


def nemo_is_there() -> bool:
    """Return whether NeMo is installed, so that the recipe can be imported."""
    return importlib.util.find_spec("nemo") is not None


def _of_recipe(case: "Case") -> tuple[Any, Any, Any, Any]:
    """Return the model, and the configurations of model, data-parallel wrapper and optimizer."""
    import fiddle
    from nemo.lightning.pytorch.plugins.mixed_precision import update_config_with_dtype_overrides

    from llama31 import recipe
    from llama31.model.device import Backend
    from llama31.model.llama import model_config

    settings, on_gpu = case.settings, case.settings.device is Device.cuda
    backend = Backend("gpu" if on_gpu else "cpu", transformer_engine=case.transformer_engine)
    described = (
        model_config(settings, backend),
        recipe.strategy(settings, backend).ddp,
        recipe.optimizer(settings).config,
    )
    precision = fiddle.build(recipe.precision(settings)).dtype_config
    config, ddp, optimizer = (update_config_with_dtype_overrides(precision, fiddle.build(one)) for one in described)
    return config.configure_model(SimpleNamespace(vocab_size=case.vocabulary)), config, ddp, optimizer


def _of_megatron(case: "Case") -> tuple[Any, Any, Any, Any]:
    """Return the same without NeMo."""
    from dev.bench import megatron_alone

    config, ddp, optimizer = megatron_alone.configurations(case.settings)
    return megatron_alone.model(config, case.settings, case.vocabulary), config, ddp, optimizer


TRAINERS = {"torch": hugging_face, "megatron": megatron}


@contextlib.contextmanager
def _only_rank(case: "Case") -> Iterator[None]:
    """Make this process Megatron's only rank within the context."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from llama31.model.cpu_backend import one_rank

    if case.settings.device is Device.cpu:
        with one_rank():
            model_parallel_cuda_manual_seed(1)
            yield
        return
    torch.distributed.init_process_group("nccl", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    yield
    torch.distributed.destroy_process_group()
