"""Measure a training step of Llama 3.1 8B's layers on one GPU: this project's model and Hugging Face's.

    python3 -m dev.bench.gpu_step [--steps 10] [--layers N] [--only TEXT] [--device cpu] [NAME=value ...]

Each case trains from random weights on random tokens in its own process; the cases run one after another:

    torch      Hugging Face's Llama with SDPA, fp32 weights under autocast, torch's fused AdamW; plain and compiled
    megatron   this project's model with Megatron's DDP and optimizer as in the recipe, without Lightning: with torch's
               layers, also without torch.compile, and with Transformer Engine's, in bf16 and fp8

Cases whose packages are missing are skipped with a message; without NeMo, dev/bench/megatron_alone.py configures
Megatron-Core. The first cases use as many layers as fit without recomputation by this project's estimate, fewer if one
runs out of memory. The others use all 32 layers with recomputation and a quarter of the vocabulary: with all of it the
optimizer state would not fit a GPU of 141 GB.

Prints medians over the steps. Model FLOPs are 6 N + 12 L d s per token (llama31/estimates/speed.py), N including both
embeddings, without recomputed ones; MFU is their rate over the GPU's dense bf16 peak, also for fp8. The last column is
the rate relative to the first case. --device cpu uses small layers, to test the bench.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dev.bench import harness
from dev.bench.harness import Column
from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import devices
from llama31.config.model_sizes import SIZES, Shape
from llama31.config.recompute import instead
from llama31.config.resolve import from_dict, resolve
from llama31.estimates import memory, speed
from llama31.estimates.gpus import GB, TERA, by_device_name
from llama31.launch import rank_command
from llama31.plan import validate
from llama31.settings import Device, Precision, RecomputeGranularity, Settings, to_dict

SIZE = "bench"
"""Value of SIZE for the shape in these processes."""
SMALL = replace(SIZES["demo"], layers=2)
USUAL = {"cuda": ["GBS=1"], "cpu": ["GBS=1", "SEQ_LENGTH=64"]}
VOCABULARY = {"cuda": rules.VOCABULARY_SIZE, "cpu": 1024}
FEWER = 2
"""Layers to remove after running out of memory."""
TABLE = harness.Table(
    Column("case", 34, left=True),
    Column("layers", 6),
    Column("vocabulary", 10, "{:,}"),
    Column("s/step", 9, "{:.3f}"),
    Column("tokens/s", 10, "{:,.0f}"),
    Column("TFLOP/s", 9, "{:.2f}"),
    Column("MFU", 8, "{:.1%}"),
    Column("GB", 7, "{:.1f}"),
    Column("of first", 9, "{:.2f}"),
)


@dataclass(frozen=True)
class Case:
    """The training of one process."""

    trainer: str
    """Key of TRAINERS in dev.bench.gpu_trainers."""
    shape: Shape
    vocabulary: int
    settings: Settings
    transformer_engine: bool = False
    compiled: bool = True

    @property
    def name(self) -> str:
        """Name of the case, unique except for the number of layers."""
        words = [self.trainer, "TE" if self.transformer_engine else "", "" if self.compiled else "not compiled"]
        recomputed = self.settings.recompute_granularity
        words += [self.settings.precision.name, "" if recomputed is RecomputeGranularity.none else recomputed.name]
        return " ".join(filter(None, words))


def cases(settings: Settings, shape: Shape, vocabulary: int, layers: int) -> Iterator[Case]:
    """Yield all cases: with `layers` layers without recomputation, then with all layers."""
    megatron, nemo, te = (
        importlib.util.find_spec(name) is not None for name in ("megatron", "nemo", "transformer_engine")
    )
    engine = settings.device is Device.cuda and megatron and nemo and te
    if not megatron:
        print("megatron: skipped: Megatron-Core is not installed")
    elif not engine:
        print("Transformer Engine and fp8: skipped: they need a GPU, NeMo and Transformer Engine")

    def case(trainer: str, recomputed: RecomputeGranularity, **more: Any) -> Case:
        return Case(trainer, replace(shape, layers=layers), vocabulary, instead(settings, recomputed), **more)

    none, selective, full = RecomputeGranularity
    best = [case("torch", none)]
    yield replace(best[0], compiled=False)
    yield best[0]
    if megatron:
        best.append(case("megatron", none))
        yield from (best[1], replace(best[1], compiled=False), case("megatron", selective))
    if engine:
        with_engine = case("megatron", none, transformer_engine=True)
        best += [with_engine, replace(with_engine, settings=replace(settings, precision=Precision.fp8))]
        yield from best[2:]
    for one in best:
        yield replace(one, shape=shape, vocabulary=vocabulary // 4, settings=instead(one.settings, full))


def fitting_layers(settings: Settings, shape: Shape, vocabulary: int, there: int) -> int:
    """Return the number of layers that fit `there` bytes by this project's estimate."""
    for layers in range(shape.layers, 1, -1):
        SIZES[SIZE] = replace(shape, layers=layers)
        if memory.per_gpu(settings, vocabulary).total <= there:
            return layers
    return 1


def measured(case: Case, steps: int) -> dict[str, Any]:
    """Run a case in its own process; return seconds of each step, peak memory in bytes and the last loss."""
    environment = rank_command.environment(case.settings, os.environ)
    if not case.compiled:
        environment["TORCHDYNAMO_DISABLE"] = "1"
    content = json.dumps({**asdict(case), "settings": to_dict(case.settings), "steps": steps})
    return in_child(content, environment)


def in_child(content: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON that `child` prints in its own process, or the reason why it failed."""
    try:
        return harness.json_of(["-m", "dev.bench.gpu_step", "--child", content], environment)
    except harness.ChildFailed as error:
        print(error.output, file=sys.stderr)
        return {"failed": f"exit code {error.exit_code}; see above"}


def given(device: str, assignments: Sequence[str]) -> Settings:
    """Return the settings of all cases. Raises UserError if they are invalid."""
    settings = resolve([*USUAL[device], *assignments, f"SIZE={SIZE}", f"DEVICE={device}"], {}).settings
    if wrong := validate.lines(settings):
        raise UserError(wrong)
    return settings


def child(content: str) -> None:
    """Train a case and print the result as JSON."""
    from dev.bench import gpu_trainers

    if content == "device":
        print(json.dumps(gpu_trainers.device_found()))
        return
    given = json.loads(content)
    steps, shape, settings = given.pop("steps"), Shape(**given.pop("shape")), from_dict(given.pop("settings"))
    SIZES[SIZE] = shape
    print(json.dumps(gpu_trainers.train(Case(shape=shape, settings=settings, **given), steps)))


def row(case: Case, found: dict[str, Any], peak: float | None, first: float | None) -> tuple[str, float | None]:
    """Return the table row of a case and its model FLOPs per second, None if it failed."""
    begin = case.name, case.shape.layers, case.vocabulary
    if "failed" in found:
        return f"{TABLE.row(*begin)}  {found['failed']}", None
    SIZES[SIZE] = case.shape
    second = statistics.median(found["seconds"])
    tokens = case.settings.gbs * case.settings.seq_length
    rate = speed.flops_per_step(case.settings, case.vocabulary) / second
    mfu = rate / peak if peak else None
    figures = second, tokens / second, rate / TERA, mfu, found["memory"] / GB, rate / (first or rate)
    return TABLE.row(*begin, *figures), rate


def main() -> None:
    """Run the bench."""
    parser = harness.parser(__doc__)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each case, after 3 warm-up steps")
    parser.add_argument("--layers", type=int, help="layers of the cases without recomputation")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="run only cases whose name contains this, such as 'TE fp8'"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("settings", nargs="*", metavar="NAME=value", help="MBS, GBS, SEQ_LENGTH, PRECISION")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    try:
        sys.exit(0 if measure(options) else 1)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def measure(options: argparse.Namespace) -> bool:
    """Run the cases one after the other, print a line for each, and return whether none failed.

    Raises UserError if the settings are invalid or there is no GPU.
    """
    on_gpu = options.device == "cuda"
    shape, vocabulary = SIZES[rules.SIZE] if on_gpu else SMALL, VOCABULARY[options.device]
    SIZES[SIZE] = shape
    settings = given(options.device, options.settings)
    device = {} if on_gpu and devices.gpus() == 0 else in_child("device", os.environ)
    if on_gpu and not device.get("memory"):
        raise UserError("torch finds no GPU; --device cpu tests the bench with small layers")
    gpu = by_device_name(device["name"]) if on_gpu else None
    words = f"{settings.gbs} x {settings.seq_length} tokens a step, micro batches of {settings.mbs}"
    print(f"{device['name'] if on_gpu else 'CPU'}, torch {device['torch']}; {words}")
    layers = options.layers
    if not layers:
        layers = fitting_layers(settings, shape, vocabulary, device["memory"]) if on_gpu else shape.layers
    chosen = [case for case in cases(settings, shape, vocabulary, layers) if options.only in case.name]
    print(TABLE.head())
    first, sound = None, True
    for case in chosen:
        found = measured(case, options.steps)
        while found.get("failed") == "out of memory" and FEWER < case.shape.layers < shape.layers:
            case = replace(case, shape=replace(case.shape, layers=case.shape.layers - FEWER))
            found = measured(case, options.steps)
        line, rate = row(case, found, gpu.bf16_flops if gpu else None, first)
        first = first or rate
        print(line, flush=True)
        sound &= rate is not None or found["failed"] == "out of memory"
    return sound


if __name__ == "__main__":
    main()
