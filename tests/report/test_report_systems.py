"""A report on runs of different lengths and speeds: its figures over all of them, recomputed independently."""

import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Page, array, figure
from report_figures import Recomputed, percentiles, traces
from report_logs import FLOPS_PER_TOKEN, PEAKS, TOKEN, page_of, spread

from dev.support.benchmark_run import SETTINGS, losses, write_log
from llama31.run_dir.events import Outcome
from llama31.settings import Settings

DEVICES, GPU, BINS = 8, "H200", 40
EVALUATIONS = {"quick": 9, "middling": 5, "slow": 6, "missed": 3}
"""Of each run; none in the order of their speeds."""
BLOCK_MS = {"quick": 61_000, "middling": 150_000, "slow": 214_000, "missed": 97_000}
ABOVE = {"quick": 0.002, "middling": -0.031, "slow": -0.004, "missed": 0.25}
"""Last validation loss, from 0.01 below the target on."""


def a_log(path: Path, name: str, settings: Settings = SETTINGS) -> Path:
    """Log of a full-size run that names the times of some steps."""
    end = EVALUATIONS[name] * 384 * 32
    aborted = Outcome("aborted", "the data ended", 3, end // 32, end)
    found = losses(evaluations=EVALUATIONS[name])
    found[-1] += ABOVE[name]
    write_log(path, settings, validation_losses=found, outcome=aborted if name == "missed" else None, seed=len(name))
    lines = path.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if '"block_start"' in line) + 1
    stats = [
        {"time_ms": 1, "key": "tracked_stats", "value": {"train_step_time": seconds}, "metadata": {"step": number}}
        for number, seconds in enumerate(step_seconds(name), start=1)
    ]
    lines[start:start] = [TOKEN + json.dumps(stat) for stat in stats]
    path.write_text("\n".join(lines) + "\n")
    return spread(path, len(name), block_stop=BLOCK_MS[name], eval_accuracy=BLOCK_MS[name] // 12, block_start=1_900)


def step_seconds(name: str) -> list[float]:
    """30 step times for each evaluation, within 8% of one another, except one in 50 that takes twice as long."""
    usual = BLOCK_MS[name] / 384_000
    return [usual * (2 if n % 50 == 7 else 1 + 0.08 * (n * 0.618034 % 1)) for n in range(30 * EVALUATIONS[name])]


def bins(values: Sequence[float], low: float, high: float) -> list[float]:
    """Shares of the values in each of BINS equal bins from `low` to `high`, inclusive."""
    counts = Counter(min(int((value - low) / (high - low) * BINS), BINS - 1) for value in values if value <= high)
    return [counts[place] / len(values) for place in range(BINS)]


def limit(values: Sequence[float]) -> float:
    """Up to which step times are drawn."""
    return min(max(values), percentiles(values)["Outlier beyond"])


def parts(run: Recomputed) -> dict[str, float]:
    """Minutes of the time to train, by activity."""
    known = {"training": sum(run.spans("block")), "evaluation": sum(run.spans("eval")), "restarts": 0.0}
    return {name: seconds / 60 for name, seconds in {**known, "other": run.time_to_train - sum(known.values())}.items()}


def scored(runs: Sequence[Recomputed]) -> list[Recomputed]:
    """The runs that reached the target, except the fastest; a run without success counts as the slowest."""
    return sorted((run for run in runs if run.samples_to_target), key=lambda run: run.time_to_train)[1:]


def score(runs: Sequence[Recomputed]) -> float:
    return statistics.mean(run.time_to_train for run in scored(runs))


def mean_samples(runs: Sequence[Recomputed]) -> float:
    return statistics.mean(run.samples_to_target for run in runs if run.samples_to_target)


def mfu(run: Recomputed) -> float:
    return run.tokens_per_second / DEVICES * FLOPS_PER_TOKEN / PEAKS[GPU]


def card(page: Page, title: str) -> str:
    """Text below the title of a card."""
    found = re.search(rf"{title} (\S+(?: min)?)", page.words)
    assert found, title
    return found[1]


def test_figures_over_runs_of_different_lengths_and_speeds(tmp_path: Path) -> None:
    logs = [a_log(tmp_path / f"{name}.log", name) for name in EVALUATIONS]
    runs = {log.stem: Recomputed(log) for log in logs}
    own = list(runs.values())
    page = page_of(tmp_path / "one.html", *logs, gpu=GPU)

    assert score(own) == figure(card(page, "Score"))
    assert mean_samples(scored(own)) == figure(card(page, "Samples to target"))
    assert min(run.evaluations[-1][1] for run in own) == figure(card(page, "Last validation loss"))
    assert statistics.median(run.tokens_per_second for run in own) == figure(card(page, "Tokens per second"))
    assert statistics.median(map(mfu, own)) == figure(card(page, "MFU"))
    shares = [sum(run.spans("eval")) / run.time_to_train for run in own]
    assert statistics.median(shares) == figure(card(page, "Evaluation"))

    bars = {trace["name"]: dict(zip(trace["y"], array(trace["x"]), strict=True)) for trace in traces(page, "Parts")}
    assert list(bars) == ["training", "evaluation", "other"], "no run was restarted"
    for part, bar in bars.items():
        assert bar == pytest.approx({name: parts(run)[part] for name, run in runs.items()}), part

    times = {name: run.step_seconds for name, run in runs.items()}
    assert times == {name: step_seconds(name) for name in EVALUATIONS}, "the steps that the logs name"
    low, high = min(map(min, times.values())), max(map(limit, times.values()))
    drawn = {trace["name"]: list(array(trace["y"])) for trace in traces(page, "Distribution")}
    assert drawn == {name: pytest.approx(bins(values, low, high)) for name, values in times.items()}

    # Beside runs of another system
    other = [a_log(tmp_path / f"other {name}.log", name, replace(SETTINGS, max_lr=1e-4)) for name in ("quick", "slow")]
    page = page_of(tmp_path / "two.html", *logs, *other, gpu=GPU)
    others = [Recomputed(log) for log in other]
    first, second = page.table("Score", "At target").values()
    assert (first["Runs"], first["At target"], second["Runs"], second["At target"]) == ("4", "3", "2", "2")
    assert score(own) == figure(first["Score"]) and second["Score"] == "no score"
    for row, system, counted in ((first, own, scored(own)), (second, others, others)):
        assert statistics.median(run.time_to_train for run in system) == figure(row["Time to train"])
        assert mean_samples(counted) == figure(row["Samples to target"])
        assert statistics.median(run.tokens_per_second for run in system) == figure(row["Tokens/s"])
        assert statistics.median(map(mfu, system)) == figure(row["MFU"])
        assert statistics.median(statistics.median(run.step_seconds) for run in system) == figure(row["Step"])
    drawn = [list(array(trace["y"])) for trace in traces(page, "Distribution")]
    together = [[time for run in system for time in run.step_seconds] for system in (own, others)]
    assert drawn == [pytest.approx(bins(values, low, high)) for values in together]
