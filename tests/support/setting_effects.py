"""Settings, and what each changes in the recipe, the MLPerf log or a submission."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from lightning.pytorch.loggers import WandbLogger
from nemo.collections.llm.gpt.model.llama import Llama31Config
from nemo.lightning.pytorch.callbacks.garbage_collection import GarbageCollectionCallback
from nemo.lightning.pytorch.callbacks.megatron_comm_overlap import MegatronCommOverlapCallback

from dev.support import benchmark_run
from llama31.config.model_sizes import SIZES
from llama31.data.module import SyntheticData
from llama31.recipe import decay_all
from llama31.settings import (
    AmaxAlgorithm,
    Container,
    CudaGraphs,
    Division,
    Fp8Recipe,
    Precision,
    RecomputeGranularity,
    ReduceType,
    Status,
)
from llama31.training.mlflow_run import MlflowRun
from llama31.training.warm_up import WarmUp

CLOSED = benchmark_run.SETTINGS  # the benchmark at a global batch size of 32


@dataclass
class Acts:
    """A value other than the default, and how it changes the recipe: new value by path, GONE if removed."""

    value: Any
    changes: dict[str, Any]
    besides: dict[str, Any] = field(default_factory=dict)
    """Other settings without which it has no effect."""


GONE = "gone"
STRATEGY = "trainer.strategy."
OVERLAPPED = {f"{STRATEGY}ddp.{name}": True for name in ("overlap_grad_reduce", "overlap_param_gather")}
PARTS = [f"c4-train.en_{part}_text_document" for part in (6, 7)]
FP8, NVFP4 = {"precision": Precision.fp8}, {"precision": Precision.nvfp4}
PLUGIN = "trainer.plugins."
LAYERS_IN_BF16 = {
    f"{PLUGIN}first_last_layers_bf16": True,
    **{f"{PLUGIN}num_layers_at_{end}_in_bf16": 0 for end in ("start", "end")},
}
TINY = SIZES["tiny"]


def warmed_up(train: int, validation: int) -> dict[str, Any]:
    """The callback of the warm-up."""
    callback = "trainer.callbacks[4]"
    return {callback: WarmUp, f"{callback}.train_steps": train, f"{callback}.validation_steps": validation}


IN_THE_RECIPE = {
    "nnodes": Acts(2, {"trainer.num_nodes": 2, **OVERLAPPED}),
    "gpus_per_node": Acts(4, {"trainer.devices": 4, **OVERLAPPED}),
    "preprocessed_path": Acts(
        "/d",
        {
            "data.train_prefixes[0]": f"/d/{PARTS[0]}",
            "data.train_prefixes[1]": f"/d/{PARTS[1]}",
            "data.validation_prefix": "/d/c4-validation-91205-samples.en_text_document",
        },
    ),
    "tokenizer_path": Acts("/t", {f"{owner}.tokenizer.pretrained_model_name": "/t" for owner in ("data", "model")}),
    "tmp_npy_index": Acts("/index", {"data.index_root": "/index"}),
    "copy_data_to": Acts(
        "/d",
        {"data.copies": "/d", "data.validation_prefix": "/d/c4-validation-91205-samples.en_text_document"},
    ),
    "train_parts": Acts("7", {"data.train_prefixes[0]": PARTS[1], "data.train_prefixes[1]": GONE}),
    "n_validation_samples": Acts(40, {"data.validation_prefix": "c4-validation-40-samples.en_text_document"}),
    "mock_data": Acts(
        True,
        {"data": SyntheticData}
        | dict.fromkeys(("data.train_prefixes[0]", "data.train_prefixes[1]"), GONE)
        | dict.fromkeys(("data.validation_prefix", "data.index_root", "data.copies"), GONE),
    ),
    "size": Acts(
        "tiny",
        {
            "model.config": Llama31Config,
            "model.config.num_layers": TINY.layers,
            "model.config.hidden_size": TINY.hidden_size,
            "model.config.ffn_hidden_size": TINY.ffn_hidden_size,
            "model.config.num_attention_heads": TINY.attention_heads,
            "model.config.num_query_groups": TINY.key_value_heads,
            "model.config.rotary_base": 500_000,
        },
    ),
    "seq_length": Acts(4096, {"data.seq_length": 4096, "model.config.seq_length": 4096}),
    "precision": Acts(
        Precision.fp8,
        {
            "trainer.plugins.fp8": "hybrid",
            "trainer.plugins.fp8_recipe": "delayed",
            "trainer.plugins.fp8_amax_history_len": 4,
            "trainer.plugins.fp8_amax_compute_algo": "most_recent",
            "trainer.plugins.fp8_param_gather": True,
            "trainer.plugins.fp8_dot_product_attention": False,
        },
    ),
    "fp8_recipe": Acts(
        Fp8Recipe.mxfp8,
        {
            "trainer.plugins.fp8": "e4m3",
            "trainer.plugins.fp8_recipe": "mxfp8",
            "trainer.plugins.reuse_grad_buf_for_mxfp8_param_ag": True,
            "trainer.plugins.fp8_amax_history_len": GONE,
            "trainer.plugins.fp8_amax_compute_algo": GONE,
        },
        FP8,
    ),
    "fp8_amax_history_len": Acts(16, {"trainer.plugins.fp8_amax_history_len": 16}, FP8),
    "fp8_amax_compute_algo": Acts(AmaxAlgorithm.max, {"trainer.plugins.fp8_amax_compute_algo": "max"}, FP8),
    "fp8_param_gather": Acts(False, {"trainer.plugins.fp8_param_gather": False}, FP8),
    "fp8_dot_product_attention": Acts(True, {"trainer.plugins.fp8_dot_product_attention": True}, FP8),
    "num_layers_at_start_in_bf16": Acts(2, {**LAYERS_IN_BF16, f"{PLUGIN}num_layers_at_start_in_bf16": 2}, NVFP4),
    "num_layers_at_end_in_bf16": Acts(3, {**LAYERS_IN_BF16, f"{PLUGIN}num_layers_at_end_in_bf16": 3}, NVFP4),
    "grad_reduce_dtype": Acts(
        ReduceType.bf16, {f"{PLUGIN}grad_reduce_in_fp32": False, f"{STRATEGY}ddp.grad_reduce_in_fp32": False}
    ),
    "gbs": Acts(
        64,
        {
            "data.global_batch_size": 64,
            "data.sample_limit": 4 * 226_645,
            "trainer.val_check_interval": 12_288 // 64,
            "trainer.limit_val_batches": 1024 // 64,
            "optim.lr_scheduler.warmup_steps": 163_840 // 64 // 10,
        },
    ),
    "mbs": Acts(2, {"data.micro_batch_size": 2}),
    "max_lr": Acts(4e-4, {"optim.config.lr": 4e-4, "optim.lr_scheduler.min_lr": pytest.approx(4e-5)}),
    "min_lr": Acts(1e-6, {"optim.lr_scheduler.min_lr": 1e-6}),
    "warmup_steps": Acts(7, {"optim.lr_scheduler.warmup_steps": 7}),
    "allocated_sequences": Acts(64_000, {"optim.lr_scheduler.warmup_steps": 64_000 // 32 // 10}),
    "max_steps": Acts(10_000, {"trainer.max_steps": 10_000, "optim.lr_scheduler.max_steps": 10_000}),
    "decay_norms": Acts(True, {"optim.no_weight_decay_cond": decay_all}),
    "samples_available": Acts(100_000, {"data.sample_limit": 100_000}),
    "eval_every": Acts(641, {"trainer.val_check_interval": math.ceil(641 / 32)}),
    "eval_samples": Acts(96, {"data.eval_samples": 96, "trainer.limit_val_batches": 96 // 32}),
    "tensor_parallel_size": Acts(2, {f"{STRATEGY}tensor_model_parallel_size": 2}),
    "pipeline_parallel_size": Acts(2, {f"{STRATEGY}pipeline_model_parallel_size": 2}),
    "virtual_pipeline_size": Acts(
        2,
        {
            f"{STRATEGY}virtual_pipeline_model_parallel_size": 2,
            "model.config.overlap_p2p_comm": True,
            "model.config.batch_p2p_comm": False,
        },
    ),
    "context_parallel_size": Acts(2, {f"{STRATEGY}context_parallel_size": 2, **OVERLAPPED}),
    "wandb": Acts(
        True,
        {
            "log.wandb": WandbLogger,
            "log.wandb.name": "run",
            "log.wandb.id": "run",
            "log.wandb.save_dir": "/run",
            "log.wandb.settings": {"console": "off", "quiet": True},
        },
    ),
    "mlflow_tracking_uri": Acts(
        "http://tracking:5000",
        {
            "log.extra_loggers[0]": MlflowRun,
            "log.extra_loggers[0].name": "run",
            "log.extra_loggers[0].uri": "http://tracking:5000",
        },
    ),
    "sequence_parallel": Acts(True, {f"{STRATEGY}sequence_parallel": True}),
    "recompute_granularity": Acts(
        RecomputeGranularity.full,
        {
            "model.config.recompute_granularity": "full",
            "model.config.recompute_method": "uniform",
            "model.config.recompute_num_layers": 1,
        },
    ),
    "overlap_grad_reduce": Acts(True, OVERLAPPED),
    "cuda_graphs": Acts(
        CudaGraphs.layer,
        {
            "model.config.enable_cuda_graph": True,
            "model.config.cuda_graph_scope": "full",
            f"{STRATEGY}use_te_rng_tracker": True,
        },
    ),
    "warmup_train_steps": Acts(2, warmed_up(2, 0)),
    "warmup_validation_steps": Acts(3, warmed_up(0, 3)),
    "log_interval": Acts(10, {"trainer.callbacks[3].interval": 10}),
    "gc_interval": Acts(
        50,
        {
            "trainer.callbacks[4]": GarbageCollectionCallback,
            "trainer.callbacks[4].gc_interval_train": 50,
            "trainer.callbacks[4].gc_interval_val": 50,
        },
    ),
    "overlap_param_gather": Acts(True, {f"{STRATEGY}ddp.overlap_param_gather": True}),
    "tp_comm_overlap": Acts(
        True,
        {
            "trainer.callbacks[4]": MegatronCommOverlapCallback,
            "trainer.callbacks[4].tp_comm_overlap": True,
            "trainer.callbacks[4].overlap_grad_reduce": False,
            "trainer.callbacks[4].overlap_param_gather": False,
            "trainer.callbacks[4].align_param_gather": False,
        },
    ),
}

IN_THE_LOG = {
    "submission_org": ("Example", "submission_org", "Example"),
    "submission_platform": ("8xB200", "submission_platform", "8xB200"),
    "submission_division": (Division.open, "submission_division", "open"),
    "submission_status": (Status.research, "submission_status", "research"),
    "config_filename": ("/x/config_mine.sh", "config_filename", "config_mine.sh"),
}
"""Field -> a value other than the default, the key of the MLPerf log, and the value there."""

IN_A_SUBMISSION: dict[str, tuple[Any, dict[str, Any], str]] = {
    "partition": ("gpus", {}, "#SBATCH --partition=gpus"),
    "account": ("training", {}, "#SBATCH --account=training"),
    "time": ("1:30:00", {}, "#SBATCH --time=1:30:00"),
    "exclusive": (False, {}, "#SBATCH --gpus-per-node=1"),
    "sbatch_args": ("--qos=high", {}, "#SBATCH --qos=high"),
    "signal_before_end": (60, {}, "#SBATCH --signal=B:USR1@60"),
    "npar": (3, {}, "  and 2 more, each --dependency=afterany:JOB, with the job before it"),
    "runs_per_job": (2, {"nexp": 2}, "\n/runs/one/runs.sbatch\n"),
    "max_retries": (2, {}, "max_retries=2"),
    "dependencies": ("5 6", {}, "  sbatch --parsable --dependency=afterany:5:6 /runs/one/job.sbatch"),
    "host": ("login", {}, " login 'bash -lc "),
    "ssh_user": ("me", {"host": "login"}, " me@login "),
    "code_path": ("/code", {}, " PYTHONPATH=/code "),
    "image": ("image.sqsh", {}, "srun+=(--container-image=image.sqsh "),
    "container": (Container.apptainer, {"image": "image.sif"}, "task=(apptainer exec "),
    "mounts": ("/models", {"image": "image.sqsh"}, "    /models:/models"),
}
"""Field -> a value other than the default, what it takes besides, and what is seen of it in script and commands."""
