"""Render the report as one HTML page: plots, and all their figures as tables."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import plotly.graph_objects as go
from mlperf_logging.mllog import constants
from plotly.offline import get_plotlyjs

from llama31 import rules
from llama31.report import plots, tables
from llama31.report.figures import Figures
from llama31.report.formatting import minutes, number, percent, plural
from llama31.report.published import published
from llama31.report.systems import System, grouped, same_description

TEMPLATE = Path(__file__).with_name("report.html.j2")


@dataclass(frozen=True)
class Card:
    """A highlighted figure."""

    title: str
    value: str
    note: str = ""


def render(runs: Sequence[Figures]) -> str:
    """Return the page, which loads no other files."""
    systems = grouped(runs)
    drawn = plots.lines(systems)
    table = published()
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters["plot"] = _plot
    return engine.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=systems[0].name if len(systems) == 1 else plural(len(systems), "system"),
        runs=runs,
        systems=systems,
        cards=_cards(systems[0]) if len(systems) == 1 else [],
        notes=[*same_description(systems), *(note for system in systems for note in _notes(system))],
        damages=[(run.run.name, run.run.damages) for run in runs if run.run.damages],
        plots={
            "validation": plots.validation_loss(drawn),
            "training": plots.training_loss(drawn),
            "throughput": plots.throughput(drawn),
            "steps": plots.step_times(drawn),
            "time": plots.time_parts(runs),
            "published": plots.compared_with_published(systems, table),
        },
        references=plots.references(runs),
        published=tables.of_published(table, systems),
        published_systems=len(table),
        tables=tables,
        submission_runs=rules.RUNS_PER_SUBMISSION,
        plotly=get_plotlyjs(),
    )


def _cards(system: System) -> list[Card]:
    """Return the key figures of one system: of its run, or over its runs."""
    run, is_repeated = system.runs[0], len(system.runs) > 1
    median = "median" if is_repeated else ""
    time = Card("Time to train", minutes(system.median("time_to_train")), median)
    if is_repeated:
        note = f"mean of {len(system.scored)} of {len(system.runs)} runs, without fastest and slowest"
        time = Card("Score", minutes(system.score), note) if system.score else time
    loss = min((one.evaluations[-1].loss for one in system.runs if one.evaluations), default=None)
    devices = f"{run.devices:,} devices" if run.devices else "devices not in the log"
    return [
        time,
        Card("Samples to target", number(system.mean_samples) if system.mean_samples else "not reached",
             f"target {run.log.target:g}" if not is_repeated else "mean of the same runs" if system.score else "mean"),
        Card("Last validation loss", number(loss, digits=4), "lowest of all runs" if is_repeated else ""),
        Card("Tokens per second", number(system.median("tokens_per_second")), devices),
        Card("MFU", percent(system.median("mfu")), _peaks(system)),
        Card("Evaluation", percent(system.median("evaluation_share")), "of the time to train"),
    ]  # fmt: skip


def _notes(system: System) -> list[str]:
    """Return what the reader must know to interpret the figures."""
    departures = dict.fromkeys(departure for run in system.runs for departure in run.log.declared or ())
    notes = [f"{system.name}: outside the closed division: {departure}" for departure in departures]
    for run in system.runs:
        name = run.run.name
        notes += [f"{name}: the log has {what}; no time to train" for what in run.untimed]
        notes += [f"{name}: {what}; not used" for what in run.unusable]
        if run.status is None:
            notes.append(f"{name}: the log has no run_stop with a status: the run is still running, or was killed")
        elif run.status == constants.SUCCESS and not run.is_success:
            notes.append(f"{name}: says {run.status}, but no evaluation reached {run.log.target:g}")
        elif not run.is_success:
            notes.append(f"{name}: ended as {run.status}" + (f": {run.reason}" if run.reason else ""))
    if system.repeated_seeds:
        notes.append(f"{system.name}: seeds used by several runs: {', '.join(system.repeated_seeds)}")
    if system.no_score:
        notes.append(f"{system.name}: {system.no_score}")
    if (mfu := system.median("mfu")) and mfu > 1:
        is_narrow = system.runs[0].own_peak[0] != "bf16" and (system.median("utilisation") or 0) <= 1
        why = "it computes in a narrower precision than bf16"
        if not is_narrow:
            why = "check the number of devices and the GPU"
        notes.append(f"{system.name}: MFU above 100%, {_peaks(system)}: {why}")
    return notes


def _peaks(system: System) -> str:
    """Name the peak that MFU refers to, and the utilisation of the used precision's peak if that is another one."""
    run = system.runs[0]
    if not run.gpu:
        return "GPU not in the log"
    precision, _ = run.own_peak
    share = system.median("utilisation")
    other = f"; {share:.1%} of its {precision} peak" if share is not None and precision != "bf16" else ""
    return f"of {run.gpu}'s bf16 peak{other}"


def _plot(figure: go.Figure) -> str:
    """Encode a figure for the page's script; in base64 no name can end the script element."""
    return base64.b64encode(figure.to_json().encode()).decode()
