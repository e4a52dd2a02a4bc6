"""Figures of a report, recomputed from the log by other means, and looked up in the report's tables."""

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import Page, figure

# --- The figures, by other means ----------------------------------------------------------------------------------


class Recomputed:
    """Figures of a log, by regular expressions and the standard library."""

    def __init__(self, log: Path):
        found = re.findall(r"^[^\n]*:::MLLOG (\{.*\})\s*$", log.read_text(errors="replace"), re.M)
        self.lines = [json.loads(text) for text in found]

    def of(self, key: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["key"] == key]

    def value(self, key: str) -> Any:
        return self.of(key)[0]["value"]

    def spans(self, key: str) -> list[float]:
        starts, stops = self.of(f"{key}_start"), self.of(f"{key}_stop")
        return [(stop["time_ms"] - start["time_ms"]) / 1000 for start, stop in zip(starts, stops, strict=True)]

    @property
    def time_to_train(self) -> float:
        return self.spans("run")[0]

    @property
    def evaluations(self) -> list[tuple[int, float]]:
        return [(line["metadata"]["samples_count"], line["value"]) for line in self.of("eval_accuracy")]

    @property
    def samples_to_target(self) -> int | None:
        return next((samples for samples, loss in self.evaluations if loss <= 3.3), None)

    @property
    def block_rates(self) -> list[tuple[int, float]]:
        """Samples at the end of each block without a restart, and its sequences per second."""
        ends = [line["metadata"]["samples_count"] for line in self.of("eval_start")]
        resumed = [line["time_ms"] for line in self.of("run_resumed")]
        blocks = list(zip(self.of("block_start"), self.of("block_stop"), strict=True))
        return [
            (end, (end - before) * 1000 / (stop["time_ms"] - start["time_ms"]))
            for (start, stop), before, end in zip(blocks, [0, *ends], ends, strict=False)
            if not any(start["time_ms"] < at < stop["time_ms"] for at in resumed)
        ]

    @property
    def tokens_per_second(self) -> float:
        """Harmonic mean of the blocks' rates, by their sequences."""
        ends = [line["metadata"]["samples_count"] for line in self.of("eval_start")]
        befores = dict(zip(ends, [0, *ends], strict=False))
        sizes = [end - befores[end] for end, _ in self.block_rates]
        return 8192 * statistics.harmonic_mean([rate for _, rate in self.block_rates], sizes)

    @property
    def step_seconds(self) -> list[float]:
        """Seconds of each step that the log names, else means between evaluations."""
        stats = [line for line in self.of("tracked_stats") if "step" in line["metadata"]]
        named = [line["value"]["train_step_time"] for line in stats if "train_step_time" in line["value"]]
        return named or [self.value("global_batch_size") / rate for _, rate in self.block_rates]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    quarters = statistics.quantiles(values, n=4, method="inclusive")
    limit = quarters[2] + 3 * (quarters[2] - quarters[0])
    return {
        "Median": statistics.median(values),
        "90%": cuts[89],
        "99%": cuts[98],
        "Longest": max(values),
        "Outlier beyond": limit,
        "Outliers": sum(value > limit for value in values),
    }


def assert_run(page: Page, name: str, log: Path, *, lost: float = 0.0) -> Recomputed:
    """The rows of a run in all tables."""
    own = Recomputed(log)
    row = page.table("Seed", "Validation loss")[name]
    assert row["Seed"] == str(own.value("seed"))
    assert row["Ended"] == own.of("run_stop")[0]["metadata"]["status"]
    assert own.evaluations[-1][1] == figure(row["Validation loss"])
    if own.samples_to_target is None:
        assert row["Samples to target"] == "not reached"
    else:
        assert own.samples_to_target == figure(row["Samples to target"])
    assert own.time_to_train == figure(row["Time to train"])
    assert own.tokens_per_second == figure(row["Tokens/s"])
    assert sum(own.spans("eval")) / own.time_to_train == figure(row["Evaluation"])

    row = page.table("Training", "Initialisation before")[name]
    training = sum(own.spans("block")) - lost
    assert training == figure(row["Training"])
    assert sum(own.spans("eval")) == figure(row["Evaluation"])
    assert lost == figure(row["Restarts"])
    assert own.time_to_train - training - sum(own.spans("eval")) - lost == figure(row["Other"])
    init = (own.of("init_stop")[0]["time_ms"] - own.of("init_start")[0]["time_ms"]) / 1000
    assert init == figure(row["Initialisation before"])
    return own


def assert_steps(page: Page, name: str, values: Sequence[float]) -> None:
    row = page.table("Median", "99%")[name]
    assert row["Values"].startswith(f"{len(values):,}: ")
    for title, value in percentiles(values).items():
        assert value == figure(row[title]), f"{name}: {title}"


def traces(page: Page, label: str) -> list[dict[str, Any]]:
    return page.plot(label)["data"]
