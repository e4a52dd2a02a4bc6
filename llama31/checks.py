"""What cannot work, found before anything heavy is imported: one line for each problem, all at once."""

from pathlib import Path

from llama31 import inputs
from llama31.errors import UserError
from llama31.inputs import Data
from llama31.layout import Layout
from llama31.settings import Device, Precision, Settings
from llama31.sizes import SIZES


def check(settings: Settings) -> Data:
    """All that a run needs is there and fits together. Raises UserError with every problem found."""
    problems = refused(settings) + combinations(settings)
    data = inputs.look(settings, problems)
    if problems or data is None:
        raise UserError(problems)
    return data


def refused(settings: Settings) -> list[str]:
    """Settings whose feature this version lacks: never accepted and then ignored."""
    lacking = {
        "runs through Slurm": ("account", "partition", "time"),
        "containers": ("image",),
        "checkpoints": (
            "use_ckpt",
            "from_hf",
            "model_ckpt",
            "continual_ckpt",
            "save_ckpt",
            "start_steps",
        ),
        "runs on several nodes": ("nnodes",),
        "several experiments at once": ("nexp",),
        "chains of jobs": ("npar",),
    }
    usual = Settings()
    found = []
    for feature, names in lacking.items():
        for name in names:
            value, default = getattr(settings, name), getattr(usual, name)
            if value != default:
                works = f"{name.upper()}={int(default) if isinstance(default, bool) else default}"
                found.append(f"{name.upper()}={value}: this version has no {feature} yet; {works} works")
    if len(settings.seeds.split()) > settings.nexp:
        found.append(f"SEEDS={settings.seeds}: more seeds than experiments, NEXP={settings.nexp}")
    return found


def combinations(settings: Settings) -> list[str]:
    """Settings that exclude each other."""
    return [*_layout_problems(settings), *_model_problems(settings), *_schedule_problems(settings)]


def _layout_problems(settings: Settings) -> list[str]:
    found = []
    layout = Layout.of(settings)
    ranks = f"NNODES*GPUS_PER_NODE={settings.nnodes}*{settings.gpus_per_node}"
    product = (
        f"TENSOR_PARALLEL_SIZE*PIPELINE_PARALLEL_SIZE*CONTEXT_PARALLEL_SIZE={settings.tensor_parallel_size}*"
        f"{settings.pipeline_parallel_size}*{settings.context_parallel_size}"
    )
    if layout.world_size % layout.model_parallel_size:
        more = layout.model_parallel_size * -(-layout.world_size // layout.model_parallel_size)
        found.append(f"{ranks} is not a multiple of {product}; {more} ranks would work")
    unit = layout.data_parallel_size * settings.mbs
    if settings.gbs % unit:
        found.append(
            f"GBS={settings.gbs} is not a multiple of data parallel*MBS={layout.data_parallel_size}*{settings.mbs}; "
            f"nearest: {_nearest_multiples(settings.gbs, unit)}"
        )
    if settings.sequence_parallel and settings.tensor_parallel_size == 1:
        found.append("SEQUENCE_PARALLEL=1: needs TENSOR_PARALLEL_SIZE above 1; SEQUENCE_PARALLEL=0 works")
    virtual = settings.virtual_pipeline_size
    if virtual > 1 and settings.pipeline_parallel_size == 1:
        found.append(f"VIRTUAL_PIPELINE_SIZE={virtual}: needs PIPELINE_PARALLEL_SIZE above 1; 1 works")
    elif virtual > 1 and layout.accumulation_steps % settings.pipeline_parallel_size:
        found.append(
            f"VIRTUAL_PIPELINE_SIZE={virtual}: needs micro batches per step, here {layout.accumulation_steps}, to be a "
            f"multiple of PIPELINE_PARALLEL_SIZE={settings.pipeline_parallel_size}; 1 works"
        )
    sequence_parts = 2 * settings.context_parallel_size if settings.context_parallel_size > 1 else 1
    if settings.sequence_parallel:
        sequence_parts *= settings.tensor_parallel_size
    if settings.seq_length % sequence_parts:
        found.append(
            f"SEQ_LENGTH={settings.seq_length} is not a multiple of {sequence_parts}, which the parallel layout "
            f"needs; nearest: {_nearest_multiples(settings.seq_length, sequence_parts)}"
        )
    return found


def _model_problems(settings: Settings) -> list[str]:
    found = []
    if settings.size not in SIZES:
        return [f"SIZE={settings.size}: not one of {', '.join(SIZES)}"]
    shape = SIZES[settings.size]
    tensor, pipeline = settings.tensor_parallel_size, settings.pipeline_parallel_size
    for count, what in (
        (shape.attention_heads, "attention heads"),
        (shape.key_value_heads, "key-value heads"),
        (shape.ffn_hidden_size, "FFN dimension"),
    ):
        if count % tensor:
            works = max(n for n in range(1, tensor) if shape.key_value_heads % n == 0)
            found.append(
                f"TENSOR_PARALLEL_SIZE={tensor} does not divide the {count} {what} of SIZE={settings.size}; "
                f"{works} works"
            )
            break
    if shape.layers % pipeline:
        works = max(n for n in range(1, pipeline) if shape.layers % n == 0)
        found.append(
            f"PIPELINE_PARALLEL_SIZE={pipeline} does not divide the {shape.layers} layers of SIZE={settings.size}; "
            f"{works} works"
        )
    elif shape.layers % (pipeline * settings.virtual_pipeline_size):
        found.append(
            f"VIRTUAL_PIPELINE_SIZE={settings.virtual_pipeline_size} does not divide the {shape.layers // pipeline} "
            f"layers of a pipeline rank; 1 works"
        )
    if device(settings) is Device.cpu:
        if settings.precision is Precision.fp8:
            found.append("PRECISION=fp8: needs CUDA and Transformer Engine, this runs on the CPU; bf16 works")
        if settings.context_parallel_size > 1:
            found.append(
                f"CONTEXT_PARALLEL_SIZE={settings.context_parallel_size}: needs CUDA and Transformer Engine, "
                "this runs on the CPU; 1 works"
            )
        if settings.sequence_parallel and settings.tensor_parallel_size > 1:
            found.append("SEQUENCE_PARALLEL=1: needs CUDA and Transformer Engine, this runs on the CPU; 0 works")
    return found


def _schedule_problems(settings: Settings) -> list[str]:
    found = []
    if settings.warmup >= settings.max_steps:
        found.append(f"WARMUP_STEPS={settings.warmup}: must be below MAX_STEPS={settings.max_steps}")
    if settings.end_lr > settings.max_lr:
        found.append(f"MIN_LR={settings.end_lr}: must not be above MAX_LR={settings.max_lr}")
    if settings.stop_at_step is not None and settings.stop_at_step > settings.max_steps:
        found.append(f"STOP_AT_STEP={settings.stop_at_step}: must not be above MAX_STEPS={settings.max_steps}")
    return found


def device(settings: Settings) -> Device:
    """The kind of device the run will use, by a look at the machine's device files; torch has the last word."""
    if settings.device is not Device.auto:
        return settings.device
    found = any(Path(file).exists() for file in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
    return Device.cuda if found else Device.cpu


def _nearest_multiples(value: int, unit: int) -> str:
    below = value // unit * unit
    return f"{below}, {below + unit}" if below else f"{unit}"
