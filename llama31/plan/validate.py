"""Find settings and data that cannot work, before anything heavy is imported: all problems, a line for each."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import cuda_graphs, devices, low_precision, mlperf_names, overlap, recompute, transformer_engine
from llama31.config.model_sizes import SIZES
from llama31.config.parallel_layout import Layout
from llama31.config.problem import Problem, assignment
from llama31.data import inputs
from llama31.data.inputs import Data
from llama31.data.token_file import bin_path
from llama31.estimates import memory
from llama31.estimates.gpus import GB, GPUS, recipes
from llama31.plan import validate_checkpoints as checkpoint_problems
from llama31.plan import validate_diagnosis
from llama31.plan import validate_slurm as slurm_problems
from llama31.settings import Device, Settings

SHOWN_REMEDIES = 2  # for each problem


def check(settings: Settings) -> Data:
    """Validate settings and data, and return the data. Raises UserError with all problems."""
    data, lines = look(settings)
    if lines or data is None:
        raise UserError(lines)
    return data


def look(settings: Settings) -> tuple[Data | None, list[str]]:
    """As `check`, but return the lines instead of raising; the data is None if files are missing or damaged."""
    data, lines, missing = examine(settings)
    return data, [*lines, *missing]


def examine(settings: Settings) -> tuple[Data | None, list[str], list[str]]:
    """As `look`, but return the lines about settings and those about files and directories apart."""
    data, missing = inputs.inspect(settings)
    found = list(problems(settings, data))
    return data, [_line(problem, found, settings, data) for problem in found], missing


def lines(settings: Settings) -> list[str]:
    """Return a line for each problem of the settings, without looking at data."""
    found = list(problems(settings))
    return [_line(problem, found, settings, None) for problem in found]


def problems(settings: Settings, data: Data | None = None) -> Iterator[Problem]:
    """Yield settings that cannot be combined and, with `data`, those that the data is too small for."""
    yield from slurm_problems.problems(settings)
    yield from mlperf_names.problems(settings)
    yield from _experiments(settings)
    yield from _before_the_run(settings)
    misfits = [*_layout(settings), *_schedule(settings), *checkpoint_problems.problems(settings)]
    if settings.size in SIZES:
        misfits += _model(settings)
    else:
        misfits.append(Problem("size", f"SIZE={settings.size}: not one of {', '.join(SIZES)}"))
    misfits += [*recompute.problems(settings), *overlap.problems(settings), *cuda_graphs.problems(settings)]
    misfits += [*_engine(settings), *low_precision.problems(settings), *validate_diagnosis.problems(settings)]
    misfits += _gpu(settings)
    if data:
        misfits += _data(settings, data)
    yield from misfits
    vocab_size = inputs.vocab_size(settings, data)
    if vocab_size and settings.gpu and not misfits:  # otherwise there is no valid layout to estimate
        yield from _memory(settings, vocab_size)


def _line(problem: Problem, found: list[Problem], settings: Settings, data: Data | None) -> str:
    """Return the problem in one line, with values that solve it and cause no other problem."""
    others = {other.name for other in found} - {problem.name}

    def works(change: Mapping[str, Any]) -> bool:
        return all(left.name in others for left in problems(replace(settings, **change), data))

    shown: list[Mapping[str, Any]] = []
    for change in problem.remedies:
        extends_another = any(shorter.items() <= change.items() for shorter in shown)
        if len(shown) < SHOWN_REMEDIES and not extends_another and works(change):
            shown.append(change)
    remedies = [" with ".join(assignment(name, value) for name, value in change.items()) for change in shown]
    return f"{problem.what}; {' or '.join(remedies)} works" if remedies else problem.what


def _experiments(settings: Settings) -> Iterator[Problem]:
    """Yield unused and repeated seeds."""
    seeds = settings.seeds.split()
    if len(seeds) > settings.nexp:
        fewer = " ".join(seeds[: settings.nexp])
        what = f"SEEDS={settings.seeds}: more seeds than experiments, NEXP={settings.nexp}"
        yield Problem("seeds", what, (fewer,), elsewhere=({"nexp": len(seeds)},))
    if len(set(seeds)) < len(seeds):
        yield Problem("seeds", f"SEEDS={settings.seeds}: the same seed twice", (" ".join(dict.fromkeys(seeds)),))


def _before_the_run(settings: Settings) -> Iterator[Problem]:
    """Yield a directory for copies that is the data's own or not used, and a command that is not used."""
    there, source = settings.copy_data_to, settings.preprocessed_path
    if there and source and os.path.realpath(there) == os.path.realpath(source):
        what = f"COPY_DATA_TO={there}: is PREPROCESSED_PATH itself; name a directory on the nodes' own disks"
        yield Problem("copy_data_to", what, ("",))
    if there and settings.mock_data:
        yield Problem("copy_data_to", f"COPY_DATA_TO={there}: MOCK_DATA=1 has no files to copy", ("",))
    if settings.clear_caches_command and not settings.clear_caches:
        what = f"CLEAR_CACHES_COMMAND={settings.clear_caches_command}: needs CLEAR_CACHES=1"
        yield Problem("clear_caches_command", what, ("",), elsewhere=({"clear_caches": True},))


def _layout(settings: Settings) -> Iterator[Problem]:
    """Yield ranks, batches and sequences that are not divisible."""
    layout = Layout.of(settings)
    pipeline, virtual = settings.pipeline_parallel_size, settings.virtual_pipeline_size
    if layout.world_size % layout.model_parallel_size:
        yield Problem(
            "gpus_per_node",
            f"NNODES*GPUS_PER_NODE={settings.nnodes}*{settings.gpus_per_node} is not a multiple of "
            "TENSOR_PARALLEL_SIZE*PIPELINE_PARALLEL_SIZE*CONTEXT_PARALLEL_SIZE="
            f"{settings.tensor_parallel_size}*{pipeline}*{settings.context_parallel_size}",
            _multiples(settings.gpus_per_node, layout.model_parallel_size),
        )
    unit = layout.data_parallel_size * settings.mbs
    if settings.gbs % unit:
        what = f"GBS={settings.gbs} is not a multiple of data parallel*MBS={layout.data_parallel_size}*{settings.mbs}"
        yield Problem("gbs", what, _multiples(settings.gbs, unit * (pipeline if virtual > 1 else 1)))
    if settings.sequence_parallel and settings.tensor_parallel_size == 1:
        yield Problem("sequence_parallel", "SEQUENCE_PARALLEL=1: needs TENSOR_PARALLEL_SIZE above 1", (False,))
    if virtual > 1 and pipeline == 1:
        what = f"VIRTUAL_PIPELINE_SIZE={virtual}: needs PIPELINE_PARALLEL_SIZE above 1"
        yield Problem("virtual_pipeline_size", what, (1,))
    elif virtual > 1 and layout.accumulation_steps % pipeline:
        yield Problem(
            "virtual_pipeline_size",
            f"VIRTUAL_PIPELINE_SIZE={virtual}: needs the micro batches of a step, here {layout.accumulation_steps}, "
            f"to be a multiple of PIPELINE_PARALLEL_SIZE={pipeline}",
            (1,),
        )
    # Context parallelism gives each rank an early and a late piece, since causal attention computes more for late ones.
    pieces = 2 * settings.context_parallel_size if settings.context_parallel_size > 1 else 1
    if settings.sequence_parallel:
        pieces *= settings.tensor_parallel_size
    if settings.seq_length % pieces:
        yield Problem(
            "seq_length",
            f"SEQ_LENGTH={settings.seq_length} is not a multiple of the {pieces} pieces that context and sequence "
            "parallelism cut it into",
            _multiples(settings.seq_length, pieces),
        )


def _schedule(settings: Settings) -> Iterator[Problem]:
    """Yield inconsistent steps and learning rates."""
    if settings.warmup >= settings.max_steps:
        what = f"WARMUP_STEPS={settings.warmup}: must be below MAX_STEPS={settings.max_steps}"
        yield Problem("warmup_steps", what, (int(rules.WARMUP_FRACTION * settings.max_steps),))
    if settings.end_lr > settings.max_lr:
        what = f"MIN_LR={settings.end_lr}: must not be above MAX_LR={settings.max_lr}"
        yield Problem("min_lr", what, (rules.end_learning_rate(settings.max_lr),))
    if settings.stop_at_step is not None and settings.stop_at_step > settings.max_steps:
        what = f"STOP_AT_STEP={settings.stop_at_step}: must not be above MAX_STEPS={settings.max_steps}"
        yield Problem("stop_at_step", what, (settings.max_steps,))
    if settings.warmup_steps is not None and settings.allocated_sequences != rules.ALLOCATED_SEQUENCES:
        given = f"ALLOCATED_SEQUENCES={settings.allocated_sequences}"
        what = f"{given}: has no effect beside WARMUP_STEPS={settings.warmup_steps}"
        yield Problem("allocated_sequences", what, (rules.ALLOCATED_SEQUENCES,))


def _model(settings: Settings) -> Iterator[Problem]:
    """Yield parallel sizes that do not divide the model."""
    shape = SIZES[settings.size]
    tensor, pipeline = settings.tensor_parallel_size, settings.pipeline_parallel_size
    shared = {
        "attention heads": shape.attention_heads,
        "key-value heads": shape.key_value_heads,
        "rows of the FFN": shape.ffn_hidden_size,
    }
    for part, count in shared.items():
        if count % tensor:
            what = f"TENSOR_PARALLEL_SIZE={tensor} does not divide the {count} {part} of SIZE={settings.size}"
            yield Problem("tensor_parallel_size", what, _common_divisors(*shared.values(), below=tensor))
            break
    layers = shape.layers
    if layers % pipeline:
        what = f"PIPELINE_PARALLEL_SIZE={pipeline} does not divide the {layers} layers of SIZE={settings.size}"
        yield Problem("pipeline_parallel_size", what, _common_divisors(layers, below=pipeline))
    elif (chunks := settings.virtual_pipeline_size) > 1 and (layers // pipeline) % chunks:
        what = f"VIRTUAL_PIPELINE_SIZE={chunks} does not divide the {layers // pipeline} layers of a pipeline rank"
        yield Problem("virtual_pipeline_size", what, _common_divisors(layers // pipeline, below=chunks))


def _engine(settings: Settings) -> Iterator[Problem]:
    """Yield settings that need Transformer Engine if it is missing. The final check is in `llama31.model.device`."""
    if devices.device(settings) is Device.cpu:
        yield from transformer_engine.problems_without(settings, transformer_engine.ON_CPU)
    elif devices.is_elsewhere(settings) or devices.gpus() == 0:  # a plan for another machine
        return
    elif not transformer_engine.is_installed():
        yield from transformer_engine.problems_without(settings, transformer_engine.NOT_INSTALLED)


def _gpu(settings: Settings) -> Iterator[Problem]:
    """Yield a GPU that is unknown or unused, and a binding to none."""
    if settings.numa_binding and devices.device(settings) is Device.cpu:
        what = "NUMA_BINDING=1: binds ranks to the NUMA node of their GPU, but this runs on the CPU"
        yield Problem("numa_binding", what, (False,))
    if settings.gpu and settings.gpu not in GPUS:
        yield Problem("gpu", f"GPU={settings.gpu}: not one of {', '.join(GPUS)}", ("",))
    elif settings.gpu and devices.device(settings) is Device.cpu:
        yield Problem("gpu", f"GPU={settings.gpu}: this runs on the CPU", ("",))
    elif settings.gpu:
        yield from low_precision.not_run_by(settings, f"GPU={settings.gpu}", recipes(GPUS[settings.gpu].capability))


def _memory(settings: Settings, vocab_size: int) -> Iterator[Problem]:
    """Yield a problem if a rank needs more than the GPU's memory."""
    needed, there = memory.per_gpu(settings, vocab_size), GPUS[settings.gpu].memory
    if needed.total > there:
        what = f"GPU={settings.gpu}: {there / GB:.0f} GB, but each would need about {needed.total / GB:.1f} GB"
        less = tuple(memory.reductions(settings, vocab_size, there))
        yield Problem("mbs", f"{what}: {memory.describe(needed)}", elsewhere=less)


def _data(settings: Settings, data: Data) -> Iterator[Problem]:
    """Yield settings that need more sequences than the data has."""
    length = settings.seq_length
    held, available = data.validation.sequences(length), data.available_samples(length)
    if not held or not available:
        short = bin_path(data.validation.prefix) if not held else "the training data"
        longest = min(data.validation.tokens, max(part.tokens for part in data.train)) - 1
        alone = ({"seq_length": longest},) if longest else ()
        with_another = tuple({**change, name: 1} for change in alone for name in ("gbs", "eval_samples"))
        what = f"SEQ_LENGTH={length}: {short} holds no sequence of that length"
        yield Problem("seq_length", what, elsewhere=(*alone, *with_another))
        return
    if settings.eval_samples > held:
        enough = f"{bin_path(data.validation.prefix)} is enough for {held:,} of {length} tokens"
        yield Problem("eval_samples", f"EVAL_SAMPLES={settings.eval_samples}: {enough}", (held,))
    if settings.gbs > settings.sample_limit:
        what = f"SAMPLES_AVAILABLE={settings.sample_limit}: less than a step of GBS={settings.gbs} takes"
        yield Problem("samples_available", what, (rules.samples_available(settings.gbs),))
    if settings.gbs > available:
        unit = Layout.of(settings).data_parallel_size * settings.mbs
        what = f"GBS={settings.gbs}: the training data is enough for {available:,} of {length} tokens"
        yield Problem("gbs", what, (available // unit * unit,) if available >= unit else ())


def _common_divisors(*values: int, below: int) -> tuple[int, ...]:
    """Return the common divisors of the values that are less than `below`, the largest first."""
    common = math.gcd(*values)
    return tuple(n for n in range(min(common, below - 1), 0, -1) if common % n == 0)


def _multiples(value: int, unit: int) -> tuple[int, ...]:
    """Return the positive multiples of `unit` next to `value`."""
    below = value // unit * unit
    return (below, below + unit) if below else (unit,)
