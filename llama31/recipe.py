"""Build the NeMo 2.0 recipe of a run from its settings. A pure function: it reads no environment."""

import math
from pathlib import Path
from typing import Any

import nemo_run as run
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from nemo import lightning as nl
from nemo.collections import llm
from nemo.collections.common.tokenizers import AutoTokenizer
from nemo.collections.llm.recipes.precision.mixed_precision import bf16_mixed
from nemo.lightning.pytorch.callbacks.garbage_collection import GarbageCollectionCallback
from nemo.lightning.pytorch.callbacks.megatron_comm_overlap import MegatronCommOverlapCallback
from nemo.lightning.pytorch.optim import CosineAnnealingScheduler, MegatronOptimizerModule
from torch.nn import Parameter

from llama31 import rules
from llama31.config import low_precision, paths
from llama31.config.overlap import Overlap
from llama31.data.module import BenchmarkData, SyntheticData
from llama31.model.device import Backend
from llama31.model.llama import model_config
from llama31.run_dir.start_point import NEW_RUN, Start
from llama31.settings import CudaGraphs, Precision, ReduceType, Settings
from llama31.training import loggers
from llama31.training.loggers import LoggedSteps
from llama31.training.lr_schedule import ScheduleOfSettings
from llama31.training.rng_state import RandomStates, SeedWeights
from llama31.training.strategy import ResumableStrategy
from llama31.training.warm_up import WarmUp


def pretrain_recipe(
    settings: Settings, backend: Backend, seed: int, run_dir: Path, name: str = "", start: Start = NEW_RUN
) -> run.Partial:
    """Return the recipe of one run.

    Args:
        settings: Checked settings.
        backend: Device, and what is installed for it.
        seed: Seed of the initial weights and of the training data's order.
        run_dir: Run directory, for NeMo's and TensorBoard's logs.
        name: Name of the run for Weights & Biases. Default: the name of `run_dir`.
        start: Starting point of this job.

    Returns:
        A nemo_run.Partial of `llm.pretrain`; `fiddle.build` builds the objects.
    """
    tokenizer = run.Config(AutoTokenizer, pretrained_model_name=settings.tokenizer_path)
    return run.Partial(
        llm.pretrain,
        model=run.Config(llm.LlamaModel, config=model_config(settings, backend), tokenizer=tokenizer),
        data=data(settings, backend, seed, tokenizer),
        trainer=trainer(settings, backend, seed),
        optim=optimizer(settings),
        log=run.Config(
            nl.NeMoLogger,
            explicit_log_dir=str(run_dir / paths.NEMO_LOGS),
            update_logger_directory=False,
            tensorboard=loggers.tensorboard(run_dir, start),
            extra_loggers=loggers.mlflow(settings.mlflow_tracking_uri, name or run_dir.name),
            wandb=loggers.weights_and_biases(run_dir, name or run_dir.name) if settings.wandb else None,
        ),
    )


def data(
    settings: Settings, backend: Backend, seed: int, tokenizer: run.Config
) -> run.Config[llm.PreTrainingDataModule]:
    """Return the data module: training parts and validation set, in the benchmark's order, or synthetic tokens."""
    on_gpu = backend.accelerator == "gpu"
    common: dict[str, Any] = {
        "eval_samples": settings.eval_samples,
        "seq_length": settings.seq_length,
        "micro_batch_size": settings.mbs,
        "global_batch_size": settings.gbs,
        "tokenizer": tokenizer,
        "seed": seed,
        "sample_limit": settings.sample_limit,
        # On a CPU, loading is fast compared with a step, and worker processes take cores from the model.
        "num_workers": 2 if on_gpu else 0,
        "persistent_workers": on_gpu,
        "pin_memory": on_gpu,
    }
    if settings.mock_data:
        return run.Config(SyntheticData, **common)
    return run.Config(
        BenchmarkData,
        train_prefixes=[str(prefix) for prefix in paths.train_prefixes(settings)],
        validation_prefix=str(paths.validation_prefix(paths.of_ranks(settings))),
        copies=settings.copy_data_to,
        index_root=str(paths.index_root(settings)),
        **common,
    )


def trainer(settings: Settings, backend: Backend, seed: int) -> run.Config[nl.Trainer]:
    """Return the trainer: layout, precision and evaluation schedule.

    max_steps is the length of the learning-rate schedule, to which NeMo copies it;
    `llama31.training.benchmark_callback` ends the run.
    """
    return run.Config(
        nl.Trainer,
        accelerator=backend.accelerator,
        devices=settings.gpus_per_node,
        num_nodes=settings.nnodes,
        max_steps=settings.max_steps,
        val_check_interval=rules.steps_between_evaluations(settings.eval_every, settings.gbs),
        check_val_every_n_epoch=None,  # val_check_interval counts optimizer steps, from the start
        limit_val_batches=math.ceil(settings.eval_samples / settings.gbs),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        accumulate_grad_batches=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        strategy=strategy(settings, backend),
        callbacks=[
            run.Config(SeedWeights, seed),
            run.Config(RandomStates),
            run.Config(ScheduleOfSettings),
            run.Config(LoggedSteps, settings.log_interval),
            *tensor_parallel_overlap(settings, backend),
            *warm_up(settings),
            *garbage_collection(settings),
        ],
        plugins=precision(settings),
    )


def strategy(settings: Settings, backend: Backend) -> run.Config[ResumableStrategy]:
    """Return Megatron's parallel layout, with the optimizer state sharded over data ranks."""
    pipelined = settings.virtual_pipeline_size > 1
    overlap = Overlap.of(settings, on_gpu=backend.accelerator == "gpu")
    config = run.Config(
        ResumableStrategy,
        tensor_model_parallel_size=settings.tensor_parallel_size,
        pipeline_model_parallel_size=settings.pipeline_parallel_size,
        virtual_pipeline_model_parallel_size=settings.virtual_pipeline_size if pipelined else None,
        context_parallel_size=settings.context_parallel_size,
        sequence_parallel=settings.sequence_parallel,
        process_group_backend=backend.process_group_backend,
        gradient_as_bucket_view=True,
        ckpt_async_save=False,
        # Any layout can resume from a checkpoint of any other; one rank of each data-parallel group gathers the state.
        ckpt_optim_fully_reshardable=True,
        distrib_optim_fully_reshardable_mem_efficient=True,
        replace_progress_bar=False,
        ddp=run.Config(
            DistributedDataParallelConfig,
            grad_reduce_in_fp32=settings.grad_reduce_dtype is ReduceType.fp32,
            use_distributed_optimizer=True,
            overlap_grad_reduce=overlap.grad_reduce,
            overlap_param_gather=overlap.param_gather,
            average_in_collective=backend.accelerator == "gpu",  # gloo has no average
        ),
    )
    if settings.cuda_graphs is not CudaGraphs.none:
        config.use_te_rng_tracker = True  # its random states are on the GPU, where graphs can use them
    return config


def tensor_parallel_overlap(settings: Settings, backend: Backend) -> list[run.Config[MegatronCommOverlapCallback]]:
    """Return NeMo's callback that sets up Transformer Engine's buffers for tensor-parallel overlap, if it is on."""
    overlap = Overlap.of(settings, on_gpu=backend.accelerator == "gpu")
    if not overlap.tensor_parallel:
        return []
    return [
        run.Config(
            MegatronCommOverlapCallback,
            tp_comm_overlap=True,
            overlap_grad_reduce=overlap.grad_reduce,
            overlap_param_gather=overlap.param_gather,
            align_param_gather=False,
        )
    ]


def warm_up(settings: Settings) -> list[run.Config[WarmUp]]:
    """Return the callback that runs steps on synthetic sequences before training, if there are any."""
    train, validation = settings.warmup_train_steps, settings.warmup_validation_steps
    return [run.Config(WarmUp, train_steps=train, validation_steps=validation)] if train or validation else []


def garbage_collection(settings: Settings) -> list[run.Config[GarbageCollectionCallback]]:
    """Return NeMo's callback that turns off Python's collector and collects at fixed steps, if GC_INTERVAL asks for it.

    In evaluations it collects as often, by global batches.
    """
    interval = settings.gc_interval
    if not interval:
        return []
    return [run.Config(GarbageCollectionCallback, gc_interval_train=interval, gc_interval_val=interval)]


def precision(settings: Settings) -> run.Config[nl.MegatronMixedPrecision]:
    """Return the precision plugin: mixed precision with fp32 master weights, or fp32 throughout."""
    if settings.precision is Precision.fp32:
        return run.Config(nl.MegatronMixedPrecision, precision="32")
    mixed = bf16_mixed()
    mixed.grad_reduce_in_fp32 = settings.grad_reduce_dtype is ReduceType.fp32
    for name, value in low_precision.arguments(settings).items():
        setattr(mixed, name, value)
    return mixed


def decay_all(name: str, parameter: Parameter) -> bool:
    """Tell Megatron to decay every parameter; by default it exempts biases and 1-D parameters."""
    return False


def optimizer(settings: Settings) -> run.Config[MegatronOptimizerModule]:
    """Return AdamW, clipping and the schedule: linear warmup, then a cosine to the end learning rate at max_steps.

    With w warmup steps, NeMo's first step uses 1 / (w + 1) of the base learning rate, not 0 or 1 / w. Step w + 1 uses
    all of it, and step max_steps + 1 would use the end learning rate.
    """
    config = run.Config(
        MegatronOptimizerModule,
        config=run.Config(
            OptimizerConfig,
            optimizer="adam",  # Megatron's name for Adam with decoupled weight decay, AdamW
            lr=settings.max_lr,
            adam_beta1=rules.ADAM_BETA1,
            adam_beta2=rules.ADAM_BETA2,
            adam_eps=rules.ADAM_EPSILON,
            weight_decay=rules.WEIGHT_DECAY,
            clip_grad=rules.CLIP_NORM,
            bf16=settings.precision is not Precision.fp32,
            use_distributed_optimizer=True,
        ),
        lr_scheduler=run.Config(
            CosineAnnealingScheduler,
            max_steps=settings.max_steps,
            warmup_steps=settings.warmup,
            constant_steps=0,
            min_lr=settings.end_lr,
        ),
    )
    if settings.decay_norms:
        config.no_weight_decay_cond = decay_all
    return config
