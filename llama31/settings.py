"""Every setting of a run, in one place: its name, type, default, unit and meaning.

A field of `Settings` is the setting whose name is the field's in upper case, in the environment (config.sh
exports all of them) and on the command line (`NAME=value`). A value is taken from the command line, else from the
environment, else from the default here; an empty value means the default. `llama31.config.resolve` does that once, and
the same object is printed, trained with, logged and stored in the run directory.
"""

import ast
import inspect
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import Any

from omegaconf import OmegaConf

from llama31 import rules


class Precision(Enum):
    """Arithmetic of the matrix products; master weights and optimizer state are always fp32."""

    bf16 = "bf16"
    fp8 = "fp8"
    nvfp4 = "nvfp4"
    fp32 = "fp32"


class Fp8Recipe(Enum):
    """How fp8 numbers are scaled, by Megatron's names."""

    delayed = "delayed"
    tensorwise = "tensorwise"
    mxfp8 = "mxfp8"
    blockwise = "blockwise"


class AmaxAlgorithm(Enum):
    """How delayed scaling takes the largest absolute value from its history, by Megatron's names."""

    most_recent = "most_recent"
    max = "max"


class ReduceType(Enum):
    """Type of gradients while they are summed over ranks."""

    fp32 = "fp32"
    bf16 = "bf16"


class Device(Enum):
    """Kind of device; `auto` selects CUDA if available."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class RecomputeGranularity(Enum):
    """Activations to recompute in the backward pass, by Megatron's names."""

    none = "none"
    selective = "selective"
    full = "full"


class RecomputeMethod(Enum):
    """Layers that full recomputation covers, by Megatron's names."""

    uniform = "uniform"
    block = "block"


class Profiler(Enum):
    """Program that records a trace of some steps; none: no trace."""

    none = "none"
    torch = "torch"
    nsys = "nsys"


class CudaGraphs(Enum):
    """Kernels that are recorded once, and started in one go after that."""

    none = "none"
    layer = "layer"
    full_iteration = "full_iteration"


class Container(Enum):
    """Container runtime of Slurm jobs."""

    pyxis = "pyxis"
    apptainer = "apptainer"


class Division(Enum):
    """Division of a submission."""

    closed = "closed"
    open = "open"


class Status(Enum):
    """Availability category of a submission, by MLPerf's names."""

    onprem = "onprem"
    cloud = "cloud"
    preview = "preview"
    research = "research"


@dataclass(frozen=True)
class Settings:
    """All settings. `Settings()` is the benchmark with the learning rate published for its global batch size."""

    # Where it runs
    nnodes: int = 1
    """Nodes; more than one requires Slurm."""
    gpus_per_node: int = 1
    """Ranks per node: one per GPU, or the number of CPU processes with DEVICE=cpu."""
    job_dir: str = "runs"
    """Directory of the run directories; each run creates one with its settings, logs and metrics."""
    device: Device = Device.auto
    """Device: auto | cuda | cpu. auto uses CUDA if available."""
    gpu: str = ""
    """GPU model that the run must fit, such as H200; see llama31/estimates/gpus.py. Empty: memory is not checked."""

    # Slurm
    partition: str = ""
    """Slurm partition. Empty: run on this machine, without Slurm; the other settings of this group must stay unset."""
    account: str = ""
    """Slurm account to charge. Empty: the user's default."""
    time: str = ""
    """Time limit of one job in Slurm's format: [days-]hours:minutes:seconds, or minutes. Empty: the partition's."""
    exclusive: bool = True
    """Request whole nodes with all their GPUs and memory; 0: only GPUS_PER_NODE GPUs per node."""
    sbatch_args: str = ""
    """Additional sbatch options, such as --qos=high --nodelist=n[1-4]; they come last and override the others."""
    signal_before_end: int = 300
    """Seconds before the time limit at which a job ends, after saving with SAVE_CKPT; Slurm may be 60 s early."""
    npar: int = 1
    """Consecutive jobs per experiment; each resumes where the previous one ended. Above 1 requires SAVE_CKPT."""
    runs_per_job: int = 1
    """Experiments, of NEXP, that share a job: one after the other, each with its own run directory."""
    max_retries: int = 0
    """Times that a job is requeued after it failed or lost a node."""
    dependencies: str = ""
    """Job ids, separated by spaces, that must end before the first job starts, or a dependency as sbatch takes it."""
    host: str = ""
    """Login node to submit from over ssh, if this machine has no sbatch. Paths are then those of the cluster."""
    ssh_user: str = ""
    """User name on HOST. Empty: ssh's default."""
    code_path: str = ""
    """Directory of this repository on the nodes. Empty: this checkout, which is mounted into containers."""

    # Container of the jobs
    image: str = ""
    """Container image. Empty: no container; jobs use the environment of CODE_PATH."""
    container: Container = Container.pyxis
    """Container runtime: pyxis | apptainer."""
    mounts: str = ""
    """Directories to mount besides those of the settings: PATH or PATH:PATH_INSIDE, separated by commas."""

    # Data
    preprocessed_path: str = ""
    """Directory of the token files (.bin, .idx) of the training parts and the validation set."""
    tokenizer_path: str = ""
    """Directory of the tokenizer in Hugging Face's format (tokenizer.json, tokenizer_config.json)."""
    tmp_npy_index: str = ""
    """Directory of the training index, shared or on each node's own disk. Empty: JOB_DIR/index."""
    copy_data_to: str = ""
    """Directory on each node's own disk to copy the token files to before the run. Empty: no copies."""
    train_parts: str = " ".join(map(str, rules.BENCHMARK_PARTS))
    """Training parts, 0 to 7, separated by spaces."""
    n_validation_samples: int = rules.VALIDATION_DOCUMENTS
    """Documents in the validation set; part of its file name."""
    mock_data: bool = False
    """Train on synthetic tokens, without token files and tokenizer, to see what loading costs; logged as open."""

    # Before each run
    clear_caches: bool = False
    """Clear the system's caches on every node; the MLPerf log then has cache_clear as true. A failure ends the run."""
    clear_caches_command: str = ""
    """Command that does it. Empty: sync, then 3 to vm.drop_caches, through sudo -n unless root."""
    numa_binding: bool = False
    """Bind each rank to the cores of its GPU's NUMA node, whose memory it then gets."""

    # Model
    size: str = rules.SIZE
    """Model size: 8b is the benchmark's; for smaller ones see llama31/config/model_sizes.py."""
    seq_length: int = rules.SEQUENCE_LENGTH
    """Tokens per sequence."""
    precision: Precision = Precision.bf16
    """Arithmetic: bf16 | fp8 | nvfp4 | fp32; master weights are fp32. fp8 and nvfp4 require Transformer Engine."""
    fp8_recipe: Fp8Recipe = Fp8Recipe.delayed
    """Scaling with PRECISION=fp8: delayed | tensorwise | mxfp8, on B200 to GB300 | blockwise."""
    fp8_amax_history_len: int = 4
    """Steps that delayed scaling looks back for the largest absolute value; the reference's 4."""
    fp8_amax_compute_algo: AmaxAlgorithm = AmaxAlgorithm.most_recent
    """Value that delayed scaling takes from that history: most_recent, as the reference | max."""
    fp8_param_gather: bool | None = None
    """Keep the weights of matrices in fp8 and gather them so. Empty: yes, except with FP8_RECIPE=blockwise."""
    fp8_dot_product_attention: bool = False
    """Also compute attention in fp8."""
    num_layers_at_start_in_bf16: int = 0
    """First layers to compute in bf16; with nvfp4, or fp8 in a recipe other than delayed."""
    num_layers_at_end_in_bf16: int = 0
    """Last layers to compute in bf16; with nvfp4, or fp8 in a recipe other than delayed."""
    grad_reduce_dtype: ReduceType = ReduceType.fp32
    """Type of gradients in memory and in their sum over ranks: fp32 | bf16, half of both, as the reference."""

    # Batch and optimizer
    gbs: int = 32
    """Global batch size: sequences per optimizer step, over all ranks."""
    mbs: int = 1
    """Micro batch size: sequences per forward pass of one rank."""
    max_lr: float = 8e-4
    """Base learning rate, reached at the end of the warmup."""
    min_lr: float | None = None
    """Learning rate at the end of the schedule. Empty: 0.1 x MAX_LR."""
    warmup_steps: int | None = None
    """Optimizer steps of linear warmup. Empty: 10% of the allocated steps, ALLOCATED_SEQUENCES / GBS."""
    allocated_sequences: int = rules.ALLOCATED_SEQUENCES
    """Training sequences that the run is planned for; only used for the default of WARMUP_STEPS."""
    max_steps: int = rules.MAX_STEPS
    """Length of the learning rate schedule in optimizer steps; STOP_AT_STEP ends a run earlier."""
    decay_norms: bool = False
    """Also decay norm weights, as the reference does; 0: do not, as in all published submissions."""
    samples_available: int | None = None
    """Training sequences to index; the run ends there. Empty: 4 x the reference's mean at this GBS, or all data."""

    # Evaluation
    eval_every: int = rules.EVAL_EVERY
    """Training sequences between evaluations, rounded up to whole optimizer steps."""
    eval_samples: int = rules.EVAL_SAMPLES
    """Sequences per evaluation: the first of the validation set."""
    start_eval_at: int = 0
    """Training sequences before the first evaluation."""
    target: float = rules.TARGET
    """Validation loss that ends the run with success, nats per token."""

    # Parallel layout
    tensor_parallel_size: int = 1
    """Ranks that each layer is sharded over."""
    pipeline_parallel_size: int = 1
    """Pipeline stages: ranks that the layers are divided over."""
    virtual_pipeline_size: int = 1
    """Interleaved model chunks per pipeline rank; 1: no interleaving."""
    context_parallel_size: int = 1
    """Ranks that each sequence is divided over; requires Transformer Engine."""
    sequence_parallel: bool = False
    """Divide norms and dropout along the sequence within a tensor-parallel group; requires Transformer Engine."""

    # Memory and speed
    recompute_granularity: RecomputeGranularity = RecomputeGranularity.none
    """Activations to recompute in the backward pass: none | selective, each layer's FFN | full, whole layers."""
    recompute_method: RecomputeMethod = RecomputeMethod.uniform
    """Layers that full recomputes: uniform, all of them in groups | block, the first ones of each model chunk."""
    recompute_num_layers: int = 1
    """Layers per group of uniform, which stores only the input of a group; or number of layers of block."""
    overlap_grad_reduce: bool | None = None
    """Reduce gradients during the backward pass. Empty: on GPUs with several data- or context-parallel ranks."""
    overlap_param_gather: bool | None = None
    """Gather updated weights during the next forward pass. Empty: same as OVERLAP_GRAD_REDUCE, which it requires."""
    tp_comm_overlap: bool | None = None
    """Overlap tensor-parallel communication with matrix products. Empty: with SEQUENCE_PARALLEL, within a node."""
    cuda_graphs: CudaGraphs = CudaGraphs.none
    """CUDA graphs: none | layer, forward and backward of each | full_iteration, one for a step without its AdamW."""

    # Timing
    warmup_train_steps: int = 0
    """Steps on synthetic sequences before a job starts to train; all state is restored. No learning rate warmup."""
    warmup_validation_steps: int = 0
    """Global batches of synthetic sequences to evaluate before a job starts to train."""
    log_interval: int = 1
    """Steps from one reading of losses and times to the next: until then a GPU need not wait for the host."""
    gc_interval: int = 0
    """Steps between garbage collections, on all ranks at the same step; 0: whenever Python does, on each rank."""

    # Checkpoints and jobs
    use_ckpt: bool = False
    """Resume from the checkpoint MODEL_CKPT, unless CONTINUAL_CKPT has one of this run."""
    from_hf: bool = False
    """Start from only the weights of MODEL_CKPT, such as one converted from Hugging Face."""
    model_ckpt: str = ""
    """Checkpoint directory for USE_CKPT or FROM_HF."""
    continual_ckpt: str = ""
    """Directory to save checkpoints to."""
    save_ckpt: bool = False
    """Save checkpoints to CONTINUAL_CKPT, and resume from the newest one of this run there."""
    save_every: int = 0
    """Optimizer steps between saves; 0: save only at the end of a job."""
    save_every_minutes: float = 0.0
    """Minutes between saves; 0: no saves by the clock."""
    save_async: bool = False
    """Write and verify checkpoints in the background; training waits only while the state is copied to host memory."""
    keep_last: int = 2
    """Checkpoints of this run to keep; 0: all."""
    start_steps: int = 0
    """Optimizer steps that MODEL_CKPT was trained for: for the log with FROM_HF, else to verify the checkpoint."""
    stop_at_step: int | None = None
    """Optimizer step after which this job ends. Empty: at the target, or when the training data is used up."""
    seeds: str = ""
    """Seed of each experiment, separated by spaces. Empty: drawn at random, printed and stored."""
    nexp: int = 1
    """Experiments: runs that differ in their seed; one after the other here, side by side on Slurm."""
    wandb: bool = False
    """Log to Weights & Biases besides TensorBoard; WANDB_MODE=offline keeps it in the run directory."""
    mlflow_tracking_uri: str = ""
    """MLflow server to log to besides TensorBoard, such as http://tracking:5000. Empty: none."""
    tag: str = ""
    """Prefix of the run directory's name."""
    step_time_atol: int = 0
    """Longest step allowed, in milliseconds; a longer one ends the run as aborted. 0: no limit."""

    # Diagnosis
    hang_minutes: float = 0.0
    """Minutes without a step or a batch of an evaluation after which the run ends, with all ranks' stacks. 0: never."""
    profile: Profiler = Profiler.none
    """Trace of some steps, in profile/ of the run directory: none | torch | nsys, Nsight Systems, for GPUs."""
    profile_step_start: int = 10
    """First step of the trace."""
    profile_step_end: int = 12
    """Last step of the trace; an evaluation after it is still recorded."""
    profile_ranks: str = "0"
    """Ranks that write a trace, separated by spaces."""
    memory_snapshot: bool = False
    """Record allocations on the GPU, for the snapshot written when memory runs out, and for one at the end."""

    # Submission
    submission_org: str = "unset"
    """Submitting organisation in the MLPerf log."""
    submission_platform: str = "unset"
    """System name in the MLPerf log."""
    submission_division: Division = Division.closed
    """Division: closed | open. A run that departs from the closed division's rules is logged as open."""
    submission_status: Status = Status.onprem
    """Category of the system: onprem | cloud | preview | research."""
    config_filename: str = ""
    """The config.sh that was sourced, which sets this itself."""

    @property
    def end_lr(self) -> float:
        """Learning rate at the schedule's end: MIN_LR, or its default."""
        return rules.end_learning_rate(self.max_lr) if self.min_lr is None else self.min_lr

    @property
    def warmup(self) -> int:
        """Optimizer steps of warmup: WARMUP_STEPS, or its default."""
        return (
            rules.warmup_steps(self.allocated_sequences, self.gbs) if self.warmup_steps is None else self.warmup_steps
        )

    @property
    def sample_limit(self) -> int:
        """Training sequences that the run can take, if the data has them: SAMPLES_AVAILABLE, or its default."""
        return rules.samples_available(self.gbs) if self.samples_available is None else self.samples_available


@cache
def documentation() -> dict[str, str]:
    """Field name -> the docstring below the field, in the order of the class."""
    body = ast.parse(inspect.getsource(Settings)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = ast.literal_eval(text.value)
    return found


def names() -> list[str]:
    """Names of all settings as users write them, in upper case."""
    return [field.name.upper() for field in fields(Settings)]


def shown(value: Any) -> str:
    """A value as a user writes it: 0 or 1, an enumeration's name, nothing for none."""
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else value.name if isinstance(value, Enum) else str(value)


def to_dict(settings: Settings) -> dict[str, Any]:
    """Field name -> plain value (enumerations by name), ready for YAML or JSON."""
    container = OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)
    return {str(name): value for name, value in container.items()}  # type: ignore[union-attr]
