"""Every setting of a run, in one place: its name, type, default, unit and meaning.

A field of `Settings` is the setting whose name is the field's in upper case, in the environment (config.sh
exports all of them) and on the command line (`NAME=value`). A value is taken from the command line, else from
the environment, else from the default here; an empty value means the default. `resolve` does that once, and the
same object is printed, trained with, logged and stored in the run directory.
"""

import ast
import difflib
import inspect
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llama31 import rules
from llama31.errors import UserError


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
    account: str = ""
    """Slurm account to charge."""
    partition: str = ""
    """Slurm partition; empty runs on this machine, without Slurm."""
    time: str = ""
    """Slurm time limit of one job, [days-]hours:minutes:seconds."""
    nnodes: int = 1
    """Nodes."""
    gpus_per_node: int = 1
    """Ranks per node: one for each GPU, or CPU processes where DEVICE is cpu."""
    image: str = ""
    """Container image; empty runs without a container."""
    job_dir: str = "runs"
    """Directory that gets a run directory for each run, with its settings, logs and metrics."""
    device: Device = Device.auto
    """Device: auto | cuda | cpu. auto takes CUDA where there is one."""

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
    """Model: 8b is the benchmark's; smaller ones of the same architecture: see llama31/sizes.py."""
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
    """Training sequences that the run is planned for; sets the default of WARMUP_STEPS alone."""
    max_steps: int = rules.MAX_STEPS
    """Length of the learning rate schedule in optimizer steps; STOP_AT_STEP ends a run earlier."""

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

    # Checkpoints and jobs
    use_ckpt: bool = False
    """Start from MODEL_CKPT."""
    from_hf: bool = False
    """MODEL_CKPT was converted from Hugging Face's weights: take the weights alone."""
    model_ckpt: str = ""
    """Checkpoint directory to start from."""
    continual_ckpt: str = ""
    """Directory to save checkpoints to."""
    save_ckpt: bool = False
    """Save checkpoints to CONTINUAL_CKPT."""
    start_steps: int = 0
    """Optimizer steps that MODEL_CKPT was trained for."""
    stop_at_step: int | None = None
    """Optimizer step after which this job ends. Empty: at the target, or when the training data is used up."""
    seeds: str = ""
    """Seed of each experiment, separated by spaces. Empty: drawn at random, printed and stored."""
    nexp: int = 1
    """Experiments: runs that differ in their seed."""
    npar: int = 1
    """Consecutive jobs per experiment."""
    tag: str = ""
    """Name put in front of the run directory's."""
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
        return rules.warmup_steps(self.allocated_sequences, self.gbs) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True)
class Resolved:
    """Settings together with where each value came from: `origins[field]`, in a user's words."""

    settings: Settings
    origins: Mapping[str, str]


@cache
def documentation() -> dict[str, str]:
    """Field name -> the docstring below the field, in the order of the class."""
    body = ast.parse(inspect.getsource(Settings)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = ast.literal_eval(text.value)
    return found


def names() -> list[str]:
    """Names of all settings as users write them, in upper case."""
    return [field.name.upper() for field in fields(Settings)]


def from_dict(values: Mapping[str, Any]) -> Settings:
    """Settings from field name -> value, as `to_dict` gives them. Raises UserError for what is no setting."""
    problems: list[str] = []
    typed = _typed({name: (value, "stored") for name, value in values.items() if value is not None}, problems)
    if problems:
        raise UserError(problems)
    return typed


def to_dict(settings: Settings) -> dict[str, Any]:
    """Field name -> plain value (enumerations by name), ready for YAML or JSON."""
    container = OmegaConf.to_container(OmegaConf.structured(settings), enum_to_str=True)
    return {str(name): value for name, value in container.items()}  # type: ignore[union-attr]


def resolve(arguments: Iterable[str], environment: Mapping[str, str]) -> Resolved:
    """Settings from `NAME=value` arguments over the environment over the defaults.

    Raises UserError with one line for each name that is no setting and each value of a wrong type or range.
    """
    problems: list[str] = []
    config = _exported_by(environment.get("CONFIG_FILENAME", ""), problems)
    for name in sorted(set(config) - set(names())):
        problems.append(f"{name} in {environment['CONFIG_FILENAME']}: no such setting{_nearest(name)}")

    given: dict[str, tuple[str, str]] = {}
    for name in names():
        if environment.get(name):
            value = environment[name]
            origin = Path(environment["CONFIG_FILENAME"]).name if config.get(name) == value else "environment"
            given[name.lower()] = (value, origin)
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator:
            problems.append(f"{argument}: not a setting; write NAME=value, such as GBS=32")
        elif name not in names():
            problems.append(f"{name}={value}: no such setting{_nearest(name)}")
        elif value:
            given[name.lower()] = (value, "command line")
        else:
            given.pop(name.lower(), None)

    settings = _typed(given, problems)
    problems += range_problems(settings)
    if problems:
        raise UserError(problems)
    origins = {field.name: given[field.name][1] if field.name in given else "default" for field in fields(Settings)}
    return Resolved(settings, origins)


def _typed(given: Mapping[str, tuple[Any, str]], problems: list[str]) -> Settings:
    """Settings with the given (value, origin) by field name; what does not fit goes to `problems`."""
    schema = OmegaConf.structured(Settings)
    OmegaConf.set_readonly(schema, False)  # as the dataclass is frozen
    for name, (value, origin) in given.items():
        try:
            OmegaConf.update(schema, name, value)
        except OmegaConfBaseException:
            problems.append(f"{name.upper()}={value} ({origin}): {_expected(name)}")
    return OmegaConf.to_object(schema)  # type: ignore[return-value]


def _expected(name: str) -> str:
    """What a value of this field looks like, with one that works."""
    if name not in Settings.__dataclass_fields__:
        return f"no such setting{_nearest(name.upper())}"
    field = Settings.__dataclass_fields__[name]
    kind = field.type
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"not one of {', '.join(kind.__members__)}"
    if kind is bool:
        return "not 0 or 1"
    return "not a whole number" if "int" in str(kind) else "not a number, such as 8e-4"


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.upper(), names(), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; the settings are those of config.sh"


def _exported_by(config_file: str, problems: list[str]) -> dict[str, str]:
    """Name -> value of all that a config.sh exports, by sourcing it in an empty environment."""
    if not config_file:
        return {}
    if not Path(config_file).is_file():
        problems.append(f"CONFIG_FILENAME={config_file}: no such file; source config.sh again")
        return {}
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER") if name in os.environ}
    script = '. "$0" >/dev/null && env -0'
    done = subprocess.run(
        ["bash", "-c", script, config_file], env=kept, capture_output=True, text=True, check=False
    )
    if done.returncode:
        problems.append(f"CONFIG_FILENAME={config_file}: bash cannot source it: {done.stderr.strip()}")
    ours = {*kept, "PWD", "OLDPWD", "SHLVL", "_"}
    pairs = (entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)
    return {name: value for name, value in pairs if name not in ours}


POSITIVE = (
    "nnodes", "gpus_per_node", "n_validation_samples", "seq_length", "gbs", "mbs", "max_lr", "allocated_sequences",
    "max_steps", "eval_every", "eval_samples", "target", "tensor_parallel_size", "pipeline_parallel_size",
    "virtual_pipeline_size", "context_parallel_size", "stop_at_step", "nexp", "npar",
)  # fmt: skip
NOT_NEGATIVE = ("min_lr", "warmup_steps", "start_eval_at", "start_steps", "step_time_atol")


def range_problems(settings: Settings) -> list[str]:
    """One line for each value that no run could have, whatever the other settings are."""
    problems = []
    for name in POSITIVE:
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            usual = getattr(Settings(), name)
            problems.append(f"{name.upper()}={value}: must be above 0" + (f", such as {usual}" if usual else ""))
    for name in NOT_NEGATIVE:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < float("inf"):
            problems.append(f"{name.upper()}={value}: must be 0 or more")
    parts = settings.train_parts.split()
    last = rules.TRAIN_SHARDS // rules.SHARDS_PER_PART - 1
    if not parts or len(set(parts)) < len(parts) or any(not p.isdecimal() or int(p) > last for p in parts):
        problems.append(
            f"TRAIN_PARTS={settings.train_parts}: not different part numbers from 0 to {last}, such as 6 7"
        )
    if any(not seed.isdecimal() or int(seed) >= 2**31 for seed in settings.seeds.split()):
        problems.append(f"SEEDS={settings.seeds}: not whole numbers from 0 to {2**31 - 1}, such as 1234")
    return problems
