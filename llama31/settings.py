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
    """Arithmetic of the matrix products; master weights and optimizer state are fp32 in all three."""

    bf16 = "bf16"
    fp8 = "fp8"
    fp32 = "fp32"


class Device(Enum):
    """Kind of device; `auto` takes CUDA where there is one."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


class RecomputeGranularity(Enum):
    """What is computed anew in the backward pass; Megatron's names."""

    none = "none"
    selective = "selective"
    full = "full"


class RecomputeMethod(Enum):
    """Which layers full recomputation takes; Megatron's names."""

    uniform = "uniform"
    block = "block"


class Container(Enum):
    """What runs a container in a Slurm job."""

    pyxis = "pyxis"
    apptainer = "apptainer"


class Division(Enum):
    """Division of a submission."""

    closed = "closed"
    open = "open"


class Status(Enum):
    """Availability category of a submission, in MLPerf's words."""

    onprem = "onprem"
    cloud = "cloud"
    preview = "preview"
    research = "research"


@dataclass(frozen=True)
class Settings:
    """All settings. `Settings()` is the benchmark with the learning rate published for its global batch size."""

    # Where it runs
    nnodes: int = 1
    """Nodes; more than one needs Slurm."""
    gpus_per_node: int = 1
    """Ranks per node: one for each GPU, or CPU processes where DEVICE is cpu."""
    job_dir: str = "runs"
    """Directory that gets a run directory for each run, with its settings, logs and metrics."""
    device: Device = Device.auto
    """Device: auto | cuda | cpu. auto takes CUDA where there is one."""
    gpu: str = ""
    """GPU that the run must fit, such as H200; see llama31/estimates/gpus.py. Empty: memory is not checked."""

    # Slurm
    partition: str = ""
    """Slurm partition; empty runs on this machine, without Slurm, and all other settings of this group stay unset."""
    account: str = ""
    """Slurm account to charge. Empty: the user's default."""
    time: str = ""
    """Time limit of one job, as Slurm takes it: [days-]hours:minutes:seconds, or minutes. Empty: the partition's."""
    exclusive: bool = True
    """Whole nodes, with all their GPUs and memory; 0 asks for GPUS_PER_NODE GPUs alone."""
    sbatch_args: str = ""
    """Further options of sbatch, such as --qos=high --nodelist=n[1-4]; they come after ours, and win."""
    signal_before_end: int = 300
    """Seconds before the time limit at which a job ends, with SAVE_CKPT saving first; Slurm may be 60 early."""
    npar: int = 1
    """Consecutive jobs per experiment, each going on where the one before ended; above 1 needs SAVE_CKPT."""
    max_retries: int = 0
    """Times that a job which failed, or lost a node, is queued again."""
    dependencies: str = ""
    """Job ids, separated by spaces, that must have ended before the first job, or a dependency as sbatch takes it."""
    host: str = ""
    """Login node to submit from through ssh, where sbatch is not at hand. Paths are then those of the cluster."""
    ssh_user: str = ""
    """User name on HOST. Empty: ssh's default."""
    code_path: str = ""
    """Directory of this repository as the jobs find it. Empty: this checkout, which a container gets mounted."""

    # Container of the jobs
    image: str = ""
    """Container image; empty runs without a container, in the environment of CODE_PATH."""
    container: Container = Container.pyxis
    """What runs it: pyxis | apptainer."""
    mounts: str = ""
    """Directories to mount besides those that the settings name: PATH or PATH:PATH_INSIDE, separated by commas."""

    # Data
    preprocessed_path: str = ""
    """Directory of the token files (.bin, .idx) of the training parts and of the validation set."""
    tokenizer_path: str = ""
    """Directory of the tokenizer in Hugging Face's format (tokenizer.json, tokenizer_config.json)."""
    tmp_npy_index: str = ""
    """Directory for the training index; all nodes must see it. Empty: JOB_DIR/index."""
    train_parts: str = " ".join(map(str, rules.BENCHMARK_PARTS))
    """Training parts to train on, of 0 to 7, separated by spaces."""
    n_validation_samples: int = rules.VALIDATION_DOCUMENTS
    """Documents in the validation set; part of its file name."""

    # Model
    size: str = rules.SIZE
    """Model: 8b is the benchmark's; smaller ones of the same architecture: see llama31/config/model_sizes.py."""
    seq_length: int = rules.SEQUENCE_LENGTH
    """Tokens in a sequence."""
    precision: Precision = Precision.bf16
    """Arithmetic: bf16 | fp8 | fp32; master weights are fp32. fp8 needs Transformer Engine and CUDA."""

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
    """Training sequences that the run is planned for; all that it sets is the default of WARMUP_STEPS."""
    max_steps: int = rules.MAX_STEPS
    """Length of the learning rate schedule in optimizer steps; STOP_AT_STEP ends a run earlier."""
    decay_norms: bool = False
    """Decay the weights of norms too, as the reference does; 0, as all published submissions."""
    samples_available: int | None = None
    """Training sequences to index, where the run ends. Empty: 4 x what the reference needs with this GBS, or all."""

    # Evaluation
    eval_every: int = rules.EVAL_EVERY
    """Training sequences between evaluations, rounded up to whole optimizer steps."""
    eval_samples: int = rules.EVAL_SAMPLES
    """Sequences evaluated each time: the first of the validation set."""
    start_eval_at: int = 0
    """Training sequences before which no evaluation takes place."""
    target: float = rules.TARGET
    """Validation loss at which the run ends with success, nats per token."""

    # Parallel layout
    tensor_parallel_size: int = 1
    """Ranks that share each layer."""
    pipeline_parallel_size: int = 1
    """Ranks that divide the layers among them."""
    virtual_pipeline_size: int = 1
    """Interleaved model chunks per pipeline rank; 1 is no interleaving."""
    context_parallel_size: int = 1
    """Ranks that divide each sequence; needs Transformer Engine."""
    sequence_parallel: bool = False
    """Divide norms and dropout along the sequence within a tensor-parallel group; needs Transformer Engine."""

    # Memory and speed
    recompute_granularity: RecomputeGranularity = RecomputeGranularity.none
    """Activations to compute anew in the backward pass: none | selective, each layer's FFN | full, whole layers."""
    recompute_method: RecomputeMethod = RecomputeMethod.uniform
    """Layers that full takes: uniform, all in units | block, the first ones of each model chunk."""
    recompute_num_layers: int = 1
    """Layers in a unit of uniform, of which the input alone is kept; or layers of block."""
    overlap_grad_reduce: bool | None = None
    """Reduce gradients during the backward pass. Empty: on GPUs with several data- or context-parallel ranks."""
    overlap_param_gather: bool | None = None
    """Gather updated weights during the next forward pass. Empty: as OVERLAP_GRAD_REDUCE, which it needs."""
    tp_comm_overlap: bool | None = None
    """Overlap tensor-parallel communication with products. Empty: with SEQUENCE_PARALLEL, within a node."""

    # Checkpoints and jobs
    use_ckpt: bool = False
    """Go on from the checkpoint MODEL_CKPT, unless CONTINUAL_CKPT holds one of this run."""
    from_hf: bool = False
    """Start from the weights alone of MODEL_CKPT, such as one converted from Hugging Face's."""
    model_ckpt: str = ""
    """Checkpoint directory for USE_CKPT or FROM_HF."""
    continual_ckpt: str = ""
    """Directory to save checkpoints to."""
    save_ckpt: bool = False
    """Save checkpoints to CONTINUAL_CKPT, and go on from the newest one of this run there."""
    save_every: int = 0
    """Optimizer steps between two saves; 0 saves at the end of a job alone."""
    save_every_minutes: float = 0.0
    """Minutes between two saves; 0 does not look at the clock."""
    keep_last: int = 2
    """Checkpoints of this run to keep; 0 keeps all."""
    start_steps: int = 0
    """Optimizer steps that MODEL_CKPT was trained for; with FROM_HF for the log, else to make sure."""
    stop_at_step: int | None = None
    """Optimizer step after which this job ends. Empty: at the target, or when the training data is used up."""
    seeds: str = ""
    """Seed of each experiment, separated by spaces. Empty: drawn at random, printed and stored."""
    nexp: int = 1
    """Experiments: runs that differ in their seed. Here one after the other, with Slurm side by side."""
    wandb: bool = False
    """Log to Weights & Biases besides TensorBoard; WANDB_MODE=offline keeps it in the run directory."""
    tag: str = ""
    """Put in front of the run directory's name."""
    step_time_atol: int = 0
    """Longest step that is tolerated, in milliseconds; a longer one ends the run as aborted. 0: any."""

    # Submission
    submission_org: str = "unset"
    """Submitting organisation, as the MLPerf log names it."""
    submission_platform: str = "unset"
    """System, as the MLPerf log names it."""
    submission_division: Division = Division.closed
    """Division: closed | open. A run that departs from the closed division's rules is logged as open."""
    submission_status: Status = Status.onprem
    """Category of the system: onprem | cloud | preview | research."""
    config_filename: str = ""
    """The config.sh that was sourced; it exports this itself."""

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
