"""Tables of the report: all figures of the plots and more, as text."""

import math
import statistics
from collections.abc import Sequence
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
from llama31.settings import Device, shown, to_dict


@dataclass(frozen=True)
class Table:
    """Rows of text with column titles; the first column names the row."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()  # indices of the rows to highlight


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
RECORDED = {"Commit": "commit", "Host": "host", "Operating system": "platform", "Python": "python"}
RECORDED |= {"Versions": "versions", "Repeated by": "repeated_by"}
"""Row title -> key of run.json."""


def of_systems(systems: Sequence[System]) -> Table:
    """Return a row for each system: score, mean samples, and medians over its runs."""
    titles = ["System", "Runs", "At target", "Score", "Time to train", "Samples to target", "Tokens/s", "MFU", "Step"]
    rows = [
        [
            system.name,
            str(len(system.runs)),
            str(len(system.successful)),
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
            times = [milliseconds(steps.percentile(percent)) for percent in (50, 90, 99, 100)]
            of_kind = f"{len(steps.seconds):,}: {steps.kind}"
            rows.append([run.run.name, of_kind, *times, f"{len(steps.outliers):,}", milliseconds(steps.limit)])
    return Table(titles, rows)


def of_outliers(runs: Sequence[Figures], most: int = 5) -> Table:
    """Return the longest outliers of each run."""
    rows = []
    for run in runs:
        if steps := run.step_times:
            for index in steps.outliers[:most]:
                step = steps.steps[index]
                name = f"block {index + 1}" if math.isnan(step) else f"step {step:,.0f}"
                rows.append([run.run.name, name, milliseconds(float(steps.seconds[index]))])
    return Table(["Run", "Where", "Time"], rows)


def of_slow_ranks(runs: Sequence[Figures], most: int = 3) -> Table:
    """Return the ranks of each run that were the slowest most often, in the time before they wait for the others."""
    rows = []
    for run in runs:
        slowest = run.run.metrics.slowest
        compared = sum(map(len, slowest.values()))
        for rank, ratios in sorted(slowest.items(), key=lambda item: -len(item[1]))[:most]:
            times = f"{statistics.median(ratios):.2f}"
            rows.append([run.run.name, rank, f"{len(ratios):,} of {compared:,}", times])
    return Table(["Run", "Rank", "Slowest in", "Times the median rank"], rows)


def of_utilisation(systems: Sequence[System]) -> Table:
    """Return MFU and all its factors, relative to the bf16 peak and to the peak of the precision in the log."""
    titles = ["System", "Devices", "GPU", "Tokens/s per device", "Operations per token", "Peak, dense bf16", "MFU"]
    titles += ["Peak of the precision used", "Utilisation of it"]
    return Table(titles, [_utilisation(system, system.runs[0]) for system in systems])


def _utilisation(system: System, run: Figures) -> list[str]:
    precision, own_peak = run.own_peak
    return [
        system.name,
        number(run.devices),
        run.gpu or NOT_SAID,
        number(system.median("tokens_per_second_per_device")),
        number(run.flops_per_token and run.flops_per_token / 1e9, "GFLOP", 2),
        number(GPUS[run.gpu].bf16_flops / 1e12 if run.gpu in GPUS else None, "TFLOP/s"),
        percent(system.median("mfu")),
        f"{precision}: {number(own_peak / 1e12, 'TFLOP/s')}" if own_peak else NOT_SAID,
        percent(system.median("utilisation")),
    ]


def of_time(runs: Sequence[Figures]) -> Table:
    """Return how each run's time to train was spent, and the initialisation before it."""
    titles = ["Run", "Training", "Evaluation", "Restarts", "Other", "Time to train", "Initialisation before"]
    rows = []
    for run in runs:
        parts: dict[str, float | None] = {**run.parts}
        if run.time_to_train is None:
            parts["other"] = None
        times = [*parts.values(), run.time_to_train, run.initialisation]
        rows.append([run.run.name, *map(minutes, times)])
    return Table(titles, rows)


def of_restarts(runs: Sequence[Figures]) -> Table:
    """Return each restart and the time that it cost."""
    rows = []
    for run in runs:
        for one in run.restarts:
            lost = ("at most " if one.is_bound else "") + minutes(one.seconds)
            rows.append([run.run.name, number(one.samples, "sequences"), lost])
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
        if logged or estimate:
            estimated = number(estimate, "GB", 1) if estimate else "none"
            rows.append([run.run.name, "; ".join(logged) or NOT_SAID, estimated])
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
    rows = [(one.score_minutes or math.inf, _published(one)) for one in table]
    ours = [(one.time / 60, _comparable(one, one.time)) for one in systems if one.time and one.runs[0].is_benchmark]
    ordered = sorted([*rows, *ours], key=lambda row: row[0])
    marked = frozenset(index for index, row in enumerate(ordered) if row in ours)
    return Table(titles, [row for _, row in ordered], marked)


def _published(one: Published) -> list[str]:
    speed = one.tokens_per_second_per_accelerator
    return [
        f"{one.org}: {one.system}" + (f" ({one.note})" if one.note else ""),
        one.round,
        f"{one.accelerators} x {one.accelerator}",
        str(one.gbs),
        one.precision,
        f"{one.score_minutes:,.2f}" if one.score_minutes else UNKNOWN,
        one.basis,
        number(one.mean_samples) if one.mean_samples else UNKNOWN,
        number(speed) if speed else UNKNOWN,
        percent(one.mfu_bf16_peak) if one.mfu_bf16_peak else UNKNOWN,
    ]


def _comparable(system: System, seconds: float) -> list[str]:
    run = system.runs[0]
    return [
        f"this report: {system.name}",
        "",
        f"{number(run.devices)} x {run.gpu or 'GPU ' + NOT_SAID}" if run.devices else NOT_SAID,
        said(run.batch),
        said(run.log.value(constants.LOWEST_NUMERICAL_PRECISION_IN_LINEAR)),
        f"{seconds / 60:,.2f}",
        f"mean of {len(system.scored)} runs" if system.score else f"median of {len(system.successful)}",
        number(system.mean_samples),
        number(system.median("tokens_per_second_per_device")),
        percent(system.median("mfu")),
    ]


def of_description(system: System) -> Table:
    """Return what ran: from the log, and from run.json if there is a run directory."""
    run = system.runs[0]
    rows = {
        name: " or ".join(dict.fromkeys(said(one.log.value(key)) for one in system.runs))
        for name, key in DESCRIBED.items()
    }
    rows |= {"Devices": number(run.devices), "GPU": run.gpu or NOT_SAID}
    recorded = dict(run.run.record or {})
    versions = recorded.get("versions")
    listed = (f"{package} {version}" for package, version in versions.items()) if isinstance(versions, dict) else ()
    recorded["versions"] = ", ".join(listed)
    rows |= {name: str(recorded[key]) for name, key in RECORDED.items() if recorded.get(key)}
    return Table(["What", "Value"], [list(row) for row in rows.items()])


def of_settings(run: Figures) -> Table | None:
    """Return all settings of a run directory; None without one."""
    if run.run.settings is None:
        return None
    rows = [[name.upper(), shown(value) or "(empty)"] for name, value in to_dict(run.run.settings).items()]
    return Table(["Setting", "Value"], rows)
