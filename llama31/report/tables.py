"""Tables of the report: all figures of the plots and more, as text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.estimates import memory
from llama31.estimates.gpus import GB, GPUS
from llama31.mlperf.log.records import TARGET_ACCURACY
from llama31.report.figures import Figures
from llama31.report.formatting import NOT_SAID, milliseconds, minutes, number, percent, said
from llama31.report.published import Published
from llama31.report.systems import System
from llama31.settings import Device, to_dict
from llama31.settings import shown as setting_shown


@dataclass(frozen=True)
class Table:
    """Rows of text with column titles; the first column names the row."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    """Indices of the rows to highlight."""


UNKNOWN = "unknown"  # in the table of a published round

DESCRIBED = {
    "Benchmark": constants.SUBMISSION_BENCHMARK,
    "Division": constants.SUBMISSION_DIVISION,
    "Organisation": constants.SUBMISSION_ORG,
    "Platform": constants.SUBMISSION_PLATFORM,
    "Global batch size": constants.GLOBAL_BATCH_SIZE,
    "Micro batch size": constants.MICRO_BATCH_SIZE,
    "Gradient accumulation steps": constants.GRADIENT_ACCUMULATION_STEPS,
    "Tensor parallel size": constants.TENSOR_PARALLELISM,
    "Pipeline parallel size": constants.PIPELINE_PARALLELISM,
    "Context parallel size": constants.CONTEXT_PARALLELISM,
    "Precision of linear layers": constants.LOWEST_NUMERICAL_PRECISION_IN_LINEAR,
    "Precision of attention": constants.LOWEST_NUMERICAL_PRECISION_IN_ATTN,
    "Precision of communication": constants.LOWEST_NUMERICAL_PRECISION_IN_COMM,
    "Sequence length": constants.MAX_SEQUENCE_LENGTH,
    "Base learning rate": constants.OPT_BASE_LR,
    "End learning rate": constants.OPT_END_LR,
    "Warmup steps": constants.OPT_LR_WARMUP_STEPS,
    "Optimizer": constants.OPT_NAME,
    "Sequences of an evaluation": constants.EVAL_SAMPLES,
    "Target": TARGET_ACCURACY,
}
"""Row title -> log key, for the description of a system."""


def of_systems(systems: Sequence[System]) -> Table:
    """Return a row for each system: score, mean samples, and medians over its runs."""
    titles = ["System", "Runs", "At target", "Score", "Time to train", "Samples to target", "Tokens/s", "MFU", "Step"]
    rows = [
        [
            system.name,
            str(len(system.runs)),
            str(len(system.times)),
            minutes(system.score) if system.score else "no score",
            minutes(system.median("time_to_train")),
            number(system.mean_samples),
            number(system.median("tokens_per_second")),
            percent(system.median("mfu")),
            milliseconds(system.median("median_step")),
        ]
        for system in systems
    ]
    return Table(titles, rows)


def of_runs(runs: Sequence[Figures]) -> Table:
    """Return a row for each run."""
    titles = ["Run", "Seed", "Ended", "Validation loss", "Samples to target", "Time to train", "Tokens/s", "Evaluation"]
    rows = [
        [
            run.run.name,
            str(NOT_SAID if run.log.value(constants.SEED) is None else run.log.value(constants.SEED)),
            run.status or "no end in the log",
            number(run.evaluations[-1].loss if run.evaluations else None, digits=4),
            number(run.samples_to_target) if run.samples_to_target else "not reached",
            minutes(run.time_to_train),
            number(run.tokens_per_second),
            percent(run.evaluation_share),
        ]
        for run in runs
    ]
    return Table(titles, rows)


def of_steps(runs: Sequence[Figures]) -> Table:
    """Return percentiles and outliers of each run's step time."""
    titles = ["Run", "Values", "Median", "90%", "99%", "Longest", "Outliers", "Outlier beyond"]
    rows = []
    for run in runs:
        if steps := run.step_times:
            shown = [milliseconds(steps.percentile(percent)) for percent in (50, 90, 99, 100)]
            of_kind = f"{len(steps.seconds):,}: {steps.kind}"
            rows.append([run.run.name, of_kind, *shown, f"{len(steps.outliers):,}", milliseconds(steps.limit)])
    return Table(titles, rows)


def of_outliers(runs: Sequence[Figures], most: int = 5) -> Table:
    """Return the longest outliers of each run."""
    rows = []
    for run in runs:
        if steps := run.step_times:
            for index in steps.outliers[:most]:
                step = steps.steps[index]
                name = f"step {step:,.0f}" if step == step else f"block {index + 1}"
                rows.append([run.run.name, name, milliseconds(float(steps.seconds[index]))])
    return Table(["Run", "Where", "Time"], rows)


def of_utilisation(systems: Sequence[System]) -> Table:
    """Return MFU and all its factors, relative to the bf16 peak and to the peak of the precision in the log."""
    titles = ["System", "Devices", "GPU", "Tokens/s per device", "Operations per token", "Peak, dense bf16", "MFU"]
    titles += ["Peak of the precision used", "Utilisation of it"]
    rows = []
    for system in systems:
        run = system.runs[0]
        flops = run.flops_per_token
        precision, own_peak = run.own_peak
        rows.append(
            [
                system.name,
                number(run.devices),
                run.gpu or NOT_SAID,
                number(system.median("tokens_per_second_per_device")),
                number(None if flops is None else flops / 1e9, "GFLOP", 2),
                number(GPUS[run.gpu].bf16_flops / 1e12 if run.gpu in GPUS else None, "TFLOP/s"),
                percent(system.median("mfu")),
                f"{precision}: {number(own_peak / 1e12, 'TFLOP/s')}" if own_peak else NOT_SAID,
                percent(system.median("utilisation")),
            ]
        )
    return Table(titles, rows)


def of_time(runs: Sequence[Figures]) -> Table:
    """Return how each run's time to train was spent, and the initialisation before it."""
    titles = ["Run", "Training", "Evaluation", "Restarts", "Other", "Time to train", "Initialisation before"]
    rows = []
    for run in runs:
        other = minutes(run.parts["other"]) if run.time_to_train is not None else NOT_SAID
        parts = [minutes(run.training), minutes(run.evaluating), minutes(run.restarting), other]
        rows.append([run.run.name, *parts, minutes(run.time_to_train), minutes(run.initialisation)])
    return Table(titles, rows)


def of_restarts(runs: Sequence[Figures]) -> Table:
    """Return each restart and the time that it cost."""
    rows = [
        [
            run.run.name,
            number(restart.samples, "sequences"),
            ("at most " if restart.is_bound else "") + minutes(restart.seconds),
        ]
        for run in runs
        for restart in run.restarts
    ]
    return Table(["Run", "Resumed after", "Time lost"], rows)


def of_memory(runs: Sequence[Figures]) -> Table:
    """Return logged memory statistics and the plan's estimate, for runs that have either."""
    rows = []
    for run in runs:
        logged = [
            f"{name}: {max(series.value):,.10g}"
            for name, series in run.run.mlperf.statistics.items()
            if "memory" in name.lower() and series.value
        ]
        estimate = _estimate(run)
        if logged or estimate is not None:
            rows.append(
                [run.run.name, "; ".join(logged) or NOT_SAID, number(estimate, "GB", 1) if estimate else "none"]
            )
    return Table(["Run", "Largest value in the log, in its unit", "The plan's estimate per GPU"], rows)


def _estimate(run: Figures) -> float | None:
    """Return GB for each GPU; None unless the model is the benchmark's: no log has other vocabulary sizes."""
    settings = run.run.settings
    if not settings or settings.size != rules.SIZE or settings.device is Device.cpu:
        return None
    return memory.per_gpu(settings, rules.VOCABULARY_SIZE).total / GB


def of_published(table: Sequence[Published], systems: Sequence[System]) -> Table:
    """Return published systems and comparable ones of this report, fastest first.

    Systems of this report need a time; published ones without a score are last.
    """
    titles = ["System", "Round", "Accelerators", "GBS", "Precision", "Minutes", "Basis", "Mean samples"]
    titles += ["Tokens/s each", "MFU"]
    rows = [
        (
            one.score_minutes or math.inf,
            [
                f"{one.org}: {one.system}" + (f" ({one.note})" if one.note else ""),
                one.round,
                f"{one.accelerators} x {one.accelerator}",
                str(one.gbs),
                one.precision,
                f"{one.score_minutes:,.2f}" if one.score_minutes else UNKNOWN,
                one.basis,
                number(one.mean_samples) if one.mean_samples else UNKNOWN,
                number(one.tokens_per_second_per_accelerator) if one.tokens_per_second_per_accelerator else UNKNOWN,
                percent(one.mfu_bf16_peak) if one.mfu_bf16_peak else UNKNOWN,
            ],
        )
        for one in table
    ]
    ours = []
    for system in systems:
        if system.time and system.runs[0].is_benchmark:
            run = system.runs[0]
            ours.append(
                (
                    system.time / 60,
                    [
                        f"this report: {system.name}",
                        "",
                        f"{number(run.devices)} x {run.gpu or 'GPU ' + NOT_SAID}" if run.devices else NOT_SAID,
                        said(run.batch),
                        said(run.log.value(constants.LOWEST_NUMERICAL_PRECISION_IN_LINEAR)),
                        f"{system.time / 60:,.2f}",
                        f"mean of {len(system.scored)} runs" if system.score else f"median of {len(system.times)}",
                        number(system.mean_samples),
                        number(system.median("tokens_per_second_per_device")),
                        percent(system.median("mfu")),
                    ],
                )
            )
    ordered = sorted([*rows, *ours], key=lambda row: row[0])
    marked = frozenset(index for index, row in enumerate(ordered) if row in ours)
    return Table(titles, [row for _, row in ordered], marked)


def of_description(system: System) -> Table:
    """Return what ran: from the log, and from run.json if there is a run directory."""
    rows = [[name, _common(system, key)] for name, key in DESCRIBED.items()]
    rows += [["Devices", number(system.runs[0].devices)], ["GPU", system.runs[0].gpu or NOT_SAID]]
    return Table(["What", "Value"], [*rows, *map(list, _recorded(system.runs[0]))])


def _common(system: System, key: str) -> str:
    values = dict.fromkeys(said(run.log.value(key)) for run in system.runs)
    return " or ".join(values)


def _recorded(run: Figures) -> Iterator[tuple[str, str]]:
    found = run.run.record or {}
    for name, key in (("Commit", "commit"), ("Host", "host"), ("Operating system", "platform"), ("Python", "python")):
        if found.get(key):
            yield name, str(found[key])
    versions = found.get("versions")
    if isinstance(versions, dict):
        yield "Versions", ", ".join(f"{package} {version}" for package, version in versions.items())
    if found.get("repeated_by"):
        yield "Repeated by", str(found["repeated_by"])


def of_settings(run: Figures) -> Table | None:
    """Return all settings of a run directory; None without one."""
    if run.run.settings is None:
        return None
    rows = [[name.upper(), setting_shown(value) or "(empty)"] for name, value in to_dict(run.run.settings).items()]
    return Table(["Setting", "Value"], rows)
