"""Plots of the report, as plotly figures; plotly's JavaScript draws them in the page.

Colours are legible on white and on near black; the page's script sets those of text, axes and grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from llama31 import rules
from llama31.mlperf.check.convergence import Points, Reference
from llama31.report.figures import Figures
from llama31.report.formatting import plural
from llama31.report.published import ROUNDS, Published
from llama31.report.systems import System

COLOURS = ("#3b82f6", "#d9730d", "#2f9e44", "#a05ce0", "#d6498f", "#0f93a0", "#a08a00", "#e0484d")
GREY = "#7d8590"
BAND = "rgba(125, 133, 144, 0.22)"
PARTS = {"training": "#3b82f6", "evaluation": "#d9730d", "restarts": "#e0484d", "other": GREY}
FEW_RUNS = 6  # runs of one system that get their own colours
POINTS = 800  # of a run's training loss: more than a screen can show
BINS = 40
MARKS = ("circle", "square")  # of the published rounds
VISIBLE = 1e-3  # share of a bar that can be seen
HEIGHT, ROW = 400, 26  # pixels: of a plot, of a bar in it


@dataclass(frozen=True)
class Line:
    """How to draw one run."""

    run: Figures
    colour: str
    legend: str
    is_first: bool
    """Whether this is the first run of its legend entry, which stands for all of them."""

    def draw(self, figure: go.Figure, x: Sequence[Any], y: Sequence[Any], hover: str, marker: int) -> None:
        """Add the line to a figure, with markers of this size unless it is 0."""
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers" if marker else "lines",
            line={"color": self.colour, "width": 1.5 if marker else 1},
            marker={"size": marker},
            hovertemplate=f"%{{text}}<br>{hover}<extra></extra>",
            name=self.legend,
            legendgroup=self.legend,
            showlegend=self.is_first,
            text=self.run.run.name,
        )


def lines(systems: Sequence[System]) -> list[Line]:
    """Assign a colour to each run if there are few and of one system, else to each system."""
    if len(systems) == 1 and len(systems[0].runs) <= FEW_RUNS:
        return [Line(run, _colour(number), run.run.name, True) for number, run in enumerate(systems[0].runs)]
    return [
        Line(run, _colour(number), f"{system.name} ({plural(len(system.runs), 'run')})", run is system.runs[0])
        for number, system in enumerate(systems)
        for run in system.runs
    ]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def validation_loss(drawn: Sequence[Line]) -> go.Figure:
    """Plot validation loss over samples, with the target and the reference points of these batch sizes."""
    figure = _figure("Training sequences", "Validation loss, nats per token")
    for line in drawn:
        samples = [one.samples for one in line.run.evaluations]
        losses = [one.loss for one in line.run.evaluations]
        line.draw(figure, samples, losses, "%{x:,} sequences<br>loss %{y:.4f}", marker=5)
    for target in sorted({line.run.log.target for line in drawn}):
        figure.add_hline(
            y=target,
            line={"color": GREY, "dash": "dash", "width": 1.5},
            annotation={"text": f"target {target:g}"},
            annotation_position="bottom left",
        )
    for number, (batch, point) in enumerate(references(line.run for line in drawn).items()):
        figure.add_vrect(
            x0=point.minimum(),
            x1=point.mean,
            fillcolor=BAND,
            line_width=0,
            annotation={"text": f"reference,<br>GBS {batch}", "yanchor": "top", "xanchor": "right", "align": "right"},
            annotation_position="top left",
            annotation_y=1 - 0.14 * number,
        )
    return figure


def references(runs: Iterable[Figures]) -> dict[int, Reference]:
    """Return the reference that `check` compares benchmark runs with, by global batch size."""
    batches = {run.batch for run in runs if run.batch and run.is_benchmark}
    points = Points(rules.RULESETS[-1])
    return {batch: found for batch in sorted(batches) if (found := points.reference(batch))}


def training_loss(drawn: Sequence[Line]) -> go.Figure | None:
    """Plot training loss over samples, averaged if there are many steps; None if no log has it."""
    figure = _figure("Training sequences", "Training loss, nats per token")
    for line in drawn:
        samples, losses = averaged(np.array(line.run.training_loss.samples), np.array(line.run.training_loss.value))
        if len(losses):
            line.draw(figure, samples, losses, "%{x:,.0f} sequences<br>loss %{y:.4f}", marker=0)
    return figure if figure.data else None


def averaged(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points, as many as necessary to keep at most `POINTS`."""
    width = -(-len(y) // POINTS) or 1
    starts = np.arange(0, len(y), width)
    counts = np.diff(np.append(starts, len(y)))
    if not len(starts):
        return x, y
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def throughput(drawn: Sequence[Line]) -> go.Figure:
    """Plot tokens per second of each training block, per device if all runs' device counts are known."""
    by_device = all(line.run.devices for line in drawn)
    figure = _figure("Training sequences", "Tokens per second" + (" and device" if by_device else ""))
    for line in drawn:
        blocks = [block for block in line.run.blocks if block.rate and block.end]
        scale = (line.run.sequence_length or 0) / ((line.run.devices or 1) if by_device else 1)
        ends, rates = [block.end for block in blocks], [(block.rate or 0) * scale for block in blocks]
        line.draw(figure, ends, rates, "up to %{x:,} sequences<br>%{y:,.0f} tokens/s", marker=4)
    figure.update_yaxes(rangemode="tozero")
    return figure


def step_times(drawn: Sequence[Line]) -> go.Figure | None:
    """Plot the distribution of step times without outliers, which the page lists."""
    known = [(line, steps) for line in drawn if (steps := line.run.step_times)]
    if not known:
        return None
    low = min(float(steps.seconds.min()) for _, steps in known)
    high = max(min(float(steps.seconds.max()), steps.limit) for _, steps in known)
    edges = np.linspace(low, high if high > low else low * 1.01 + 1e-9, BINS + 1) * 1000
    figure = _figure("Milliseconds per step", "Share of steps")
    for legend in dict.fromkeys(line.legend for line, _ in known):
        of_legend = [(line, steps) for line, steps in known if line.legend == legend]
        seconds = np.concatenate([steps.seconds for _, steps in of_legend]) * 1000
        counts, _ = np.histogram(seconds, edges)
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts / len(seconds),
            width=np.diff(edges),
            marker={"color": of_legend[0][0].colour, "opacity": 0.65},
            name=legend,
            hovertemplate="%{x:.1f} ms: %{y:.1%} of steps<extra></extra>",
        )
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_yaxes(tickformat=".0%")
    return figure


def time_parts(runs: Sequence[Figures]) -> go.Figure | None:
    """Plot how each run's time to train was spent; None if no run has ended."""
    ended = [run for run in reversed(runs) if run.time_to_train is not None]
    if not ended:
        return None
    figure = _figure("Minutes", "")
    parts = [run.parts for run in ended]
    for name, colour in PARTS.items():
        if any(part[name] > VISIBLE * sum(part.values()) for part in parts):
            figure.add_bar(
                y=[run.run.name for run in ended],
                x=[part[name] / 60 for part in parts],
                orientation="h",
                name=name,
                marker={"color": colour},
                hovertemplate="%{y}<br>" + name + " %{x:.2f} min<extra></extra>",
            )
    figure.update_layout(barmode="stack", bargap=0.25, height=150 + ROW * len(ended), margin_t=64)
    figure.update_layout(legend={"y": 1, "yanchor": "bottom", "traceorder": "normal"})
    figure.update_yaxes(type="category", dtick=1)
    return figure


def compared_with_published(systems: Sequence[System], table: Sequence[Published]) -> go.Figure:
    """Plot score over number of accelerators, for published systems and comparable ones of this report.

    Each round has its own marker, hollow if the score is derived from one run.
    """
    figure = _figure("Accelerators", "Time to train, minutes")
    for name, mark in zip(ROUNDS, MARKS, strict=True):
        shown = [one for one in table if one.round == name and one.score_minutes]
        symbols = [f"{mark}-open" if one.basis == "derived" else mark for one in shown]
        figure.add_scatter(
            x=[one.accelerators for one in shown],
            y=[one.score_minutes for one in shown],
            mode="markers",
            name=f"MLPerf {name}",
            marker={"color": GREY, "size": 8, "opacity": 0.75, "symbol": symbols},
            text=[f"{one.org}<br>{one.system}<br>{one.accelerator}<br>{name}, {one.basis}" for one in shown],
            hovertemplate="%{text}<br>%{x} accelerators, %{y:.2f} min<extra></extra>",
        )
    for number, system in enumerate(systems):
        devices, seconds = system.runs[0].devices, system.time
        if devices and seconds and system.runs[0].is_benchmark:
            figure.add_scatter(
                x=[devices],
                y=[seconds / 60],
                mode="markers",
                name=system.name,
                marker={"color": _colour(number), "size": 14, "symbol": "diamond"},
                hovertemplate=system.name + "<br>%{x} accelerators, %{y:.2f} min<extra></extra>",
            )
    ticks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    marks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]
    figure.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:,}" for mark in marks])
    return figure


def _figure(x: str, y: str) -> go.Figure:
    """Return an empty figure, without plotly's default template, whose colours only suit a white page."""
    return go.Figure(
        layout={
            "template": "none",
            "height": HEIGHT,
            "margin": {"l": 64, "r": 16, "t": 16, "b": 48},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hovermode": "closest",
            "showlegend": True,
            "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "itemsizing": "constant"},
            "xaxis": {"title": {"text": x, "standoff": 8}, "zeroline": False, "tickformat": ",", "automargin": True},
            "yaxis": {"title": {"text": y, "standoff": 8}, "zeroline": False, "automargin": True},
        }
    )
