"""`llama31 report`: every figure recomputed from the log by other means, on our logs and published ones."""

import csv
import gzip
import io
import json
import os
import random
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_run import EVALUATIONS, SAMPLES, SETTINGS, interval, losses, open_log, train, write_log
from mlperf_logging.compliance_checker.mlp_parser import ruleset_610
from pages import Page, array, figure
from runs import REPOSITORY
from test_launch import call
from test_settings import imported_by, is_light

from dev.bench import read_logs
from llama31 import rules
from llama31.cli import main as cli
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.mlperf.log import reader as module
from llama31.mlperf.log.writer import MLPerfLog, continued
from llama31.report import command, find_logs
from llama31.run_dir import record, summary
from llama31.run_dir.events import Evaluation, Outcome, Saved, Step
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.settings import Settings
from llama31.status import status

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PUBLISHED = SHARED / "logs"
FLOPS_PER_TOKEN = 6 * 8_030_261_248 + 12 * 32 * 4096 * 8192
PEAKS = {"H200": 989e12, "B200": 2250e12, "MI355X": 2500e12}
TOKEN = ":::MLLOG "

needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="MLCommons' published logs are not in ../shared")


# --- Logs ---------------------------------------------------------------------------------------------------------


def spread(log: Path, seed: int = 1, **before: int) -> Path:
    """Gives the lines of a log, which a test writes within a second, times as a run has them: none alike.

    `before` a line of a key so many milliseconds pass, more or less.
    """
    chance, now, lines = random.Random(seed), 1_760_000_000_000, []
    takes = {"init_stop": 60_000, "block_stop": 190_000, "eval_accuracy": 9_500, "run_resumed": 1_000_000} | before
    for line in log.read_text().splitlines():
        head, _, text = line.partition(TOKEN)
        fields = json.loads(text)
        now += int(takes.get(fields["key"], 3) * chance.uniform(0.97, 1.03))
        lines.append(f"{head}{TOKEN}{json.dumps(fields | {'time_ms': now})}\n")
    log.write_text("".join(lines))
    return log


def a_log(path: Path, seed: int = 1, settings: Settings = SETTINGS, **how: Any) -> Path:
    """Log of a full-size run, with a seed and times of its own."""
    write_log(path, settings, **how)
    path.write_text(path.read_text().replace('"value": 1234,', f'"value": {seed},'))
    return spread(path, seed)


def step_seconds(step: int) -> float:
    """Time of a step in the tests: none alike, the first and some others long."""
    return 0.5 + 0.01 * random.Random(step).random() + (20.0 if step == 1 else 1.5 if step % 997 == 0 else 0.0)


class Metered(MetricsWriter):
    """Gives each step a time and a loss of its own."""

    def step_ended(self, step: Step) -> None:
        number = step.step
        super().step_ended(replace(step, seconds=step_seconds(number), loss=3.2 + 8 / (1 + number / 100)))


def a_run_directory(directory: Path) -> Path:
    """A run that was cut off after step 3,000, and went on from the checkpoint of step 2,880."""
    directory.mkdir()
    settings = replace(SETTINGS, gpu="H200", gpus_per_node=8)
    first = directory / "first job.log"
    log, metrics = open_log(first, settings), Metered(directory / paths.METRICS)
    log.run_started(0)
    whole, rest = losses()[:7], losses()[7:]
    for observer in (log, metrics):
        train(observer, settings, whole)
    end = 7 * interval(settings)
    for step in range(end + 1, 2880 + 1):
        metrics.step_ended(Step(step, step * settings.gbs, 4.0, settings.max_lr, 0.5))
        if step == 2784:
            metrics.checkpoint_saved(Saved(step, step * settings.gbs, "/data/checkpoint", 10**9, 5.0))
    log.close()
    path = directory / paths.MLPERF_LOG
    continued(first, path, ())
    first.unlink()
    log = MLPerfLog(path, goes_on=True)
    log.run_started(2880 * settings.gbs)
    for step in range(2881, end + interval(settings) + 1):
        metrics.step_ended(Step(step, step * settings.gbs, 4.0, settings.max_lr, 0.5))
    at = (end + interval(settings), (end + interval(settings)) * settings.gbs)
    for observer in (log, metrics):
        observer.evaluation_started(*at)
        evaluation = Evaluation(*at, rest[0], settings.eval_samples, "0" * 16, 10.0, False, memory=93_254_321_000)
        observer.evaluation_ended(evaluation)
        observer.checkpoint_saved(Saved(*at, "/data/checkpoint", 10**9, 4.0))
        train(observer, settings, rest[1:], first=9)
        observer.run_stopped(Outcome("success", "target reached", 0, SAMPLES // settings.gbs, SAMPLES))
    spread(path)
    record.store_settings(directory, settings)
    versions = {"torch": "2.13.0", "megatron-core": "0.15.3"}
    record.store_record(directory, {"versions": versions, "commit": "0123abc", "host": "node7"})
    return directory


@cache
def page_of(output: Path, *given: Path, devices: int | None = None, gpu: str = "") -> Page:
    command.report(given, output, devices, gpu)
    return Page(output)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run_directory(tmp_path_factory.mktemp("runs") / "a $HOME {of} run & <b>")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of ten logs, of runs that are not all as long, the fifth without success."""
    directory = tmp_path_factory.mktemp("several")
    for number in range(10):
        aborted = Outcome("aborted", "the data ended", 3, 5376, SAMPLES)
        how: dict[str, Any] = {"validation_losses": losses(evaluations=EVALUATIONS - number % 4)}
        if number == 4:
            how = {"validation_losses": [4.0] * EVALUATIONS, "outcome": aborted}
        a_log(directory / f"result_{number}.txt", 1000 + number, **how)
    return directory


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
        """Of the steps that the log names, else means between evaluations."""
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


def test_a_run_directory(run_directory: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", run_directory)
    name, log = run_directory.name, run_directory / paths.MLPERF_LOG
    metrics = [json.loads(line) for line in (run_directory / paths.METRICS).read_text().splitlines()]
    steps = [event for event in metrics if event["event"] == "step"]

    # Lost: from the block's start to run_resumed, but for the steps and saves up to the checkpoint.
    probe = Recomputed(log)
    (resumed,) = probe.of("run_resumed")
    block = max(line["time_ms"] for line in probe.of("block_start") if line["time_ms"] < resumed["time_ms"])
    trained = sum(event["seconds"] for event in steps if 2688 < event["step"] <= 2880)
    saved = sum(event["seconds"] for event in metrics if event["event"] == "checkpoint" and event["step"] == 2784)
    lost = (resumed["time_ms"] - block) / 1000 - trained - saved
    assert lost > 100, "the test must lose time"

    own = assert_run(page, name, log, lost=lost)
    assert_steps(page, name, [event["seconds"] for event in steps])
    restart = page.table("Went on after", "Time lost")[name]
    assert figure(restart["Went on after"]) == 2880 * 32
    assert lost == figure(restart["Time lost"]) and "at most" not in restart["Time lost"]

    row = next(iter(page.table("Peak, dense bf16").values()))
    assert (row["Devices"], row["GPU"]) == ("8", "H200")
    assert own.tokens_per_second / 8 == figure(row["Tokens/s per device"])
    assert figure(row["Operations per token"]) == FLOPS_PER_TOKEN
    assert figure(row["Peak, dense bf16"]) == PEAKS["H200"]
    assert own.tokens_per_second / 8 * FLOPS_PER_TOKEN / PEAKS["H200"] == figure(row["MFU"])

    row = page.table("Mean samples")["this report: Example, 8xH200, GBS 32"]
    assert own.time_to_train / 60 == figure(row["Minutes"]) and own.samples_to_target == figure(row["Mean samples"])
    assert own.tokens_per_second / 8 == figure(row["Tokens/s each"])
    assert own.tokens_per_second / 8 * FLOPS_PER_TOKEN / PEAKS["H200"] == figure(row["MFU"])
    (outliers,) = [table[1:] for table in page.tables if table[0] == ["Run", "Where", "Time"]]
    slowest = sorted(steps, key=lambda event: -event["seconds"])[:5]
    assert [row[1] for row in outliers] == [f"step {event['step']:,}" for event in slowest]
    assert [event["seconds"] for event in slowest] == [figure(row[2]) for row in outliers]
    for title, value in {
        "Time to train": own.time_to_train,
        "Samples to target": own.samples_to_target,
        "Last validation loss": own.evaluations[-1][1],
        "Tokens per second": own.tokens_per_second,
        "MFU": own.tokens_per_second / 8 * FLOPS_PER_TOKEN / PEAKS["H200"],
        "Evaluation": sum(own.spans("eval")) / own.time_to_train,
    }.items():
        card = re.search(rf"{title} ([\d,.]+ ?(?:min|%)?)", page.words)
        assert card and value == figure(card[1]), title

    described = page.table("What", "Value")
    assert described["Commit"]["Value"] == "0123abc"
    assert described["Versions"]["Value"] == "torch 2.13.0, megatron-core 0.15.3"
    assert page.table("Setting", "Value")["GPUS_PER_NODE"]["Value"] == "8"
    row = page.table("The plan's estimate per GPU")[name]
    assert row["The plan's estimate per GPU"] == "110.9 GB", "the README's figure for the H200 at MBS=1 and TP=1"
    assert row["Largest value in the log, in its unit"] == "max_memory_gb: 93.254"

    # The plots
    (loss,) = traces(page, "Validation loss")
    assert list(zip(array(loss["x"]), array(loss["y"]), strict=True)) == own.evaluations
    (rates,) = traces(page, "Tokens per second")
    expected = [(end, rate * 8192 / 8) for end, rate in own.block_rates]
    np.testing.assert_allclose(np.stack([array(rates["x"]), array(rates["y"])], 1), expected)
    (training,) = traces(page, "Training loss")
    groups = [steps[start : start + 7] for start in range(0, len(steps), 7)]
    assert len(steps) > 800 * 6, "so many that seven are drawn as one"
    np.testing.assert_allclose(array(training["y"]), [statistics.mean(e["loss"] for e in group) for group in groups])
    np.testing.assert_allclose(
        array(training["x"]), [statistics.mean(e["consumed_samples"] for e in group) for group in groups]
    )
    (histogram,) = traces(page, "Distribution")
    outliers = percentiles([event["seconds"] for event in steps])["Outliers"]
    assert sum(array(histogram["y"])) == pytest.approx(1 - outliers / len(steps)), "all but the outliers are drawn"
    parts = {trace["name"]: array(trace["x"])[0] for trace in traces(page, "Parts")}
    assert parts["restarts"] == pytest.approx(lost / 60)
    assert sum(parts.values()) == pytest.approx(own.time_to_train / 60, rel=2e-3)
    ours = traces(page, "Time to train over")[2]  # after a trace of each published round
    assert (array(ours["x"])[0], array(ours["y"])[0]) == (8, pytest.approx(own.time_to_train / 60))


def test_the_reference_band_and_the_target(run_directory: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", run_directory)
    shapes = page.plot("Validation loss")["layout"]["shapes"]
    (band,) = [(shape["x0"], shape["x1"]) for shape in shapes if shape["type"] == "rect"]
    assert band == (pytest.approx(173_650, abs=1), pytest.approx(178_859, abs=1))
    assert {(shape["y0"], shape["y1"]) for shape in shapes if shape["type"] == "line"} == {(3.3, 3.3)}
    assert "takes 178,859 sequences on average (a point of ruleset 6.1.0)" in page.words


@pytest.mark.parametrize(("batch", "mean"), [(72, 239_644), (48, (178_859 + 226_645) / 2), (160, None)])
def test_a_batch_size_without_a_reference_point(batch: int, mean: float | None, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", a_log(tmp_path / "a.log", settings=replace(SETTINGS, gbs=batch)))
    bands = [shape["x1"] for shape in page.plot("Validation loss")["layout"]["shapes"] if shape["type"] == "rect"]
    assert bands == ([] if mean is None else [pytest.approx(mean, abs=1)])
    assert ("(interpolated from " in page.words) == (mean is not None)


def test_several_runs_and_their_score(several: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", several)
    logs = {log.stem: log for log in sorted(several.iterdir())}
    own = {name: assert_run(page, name, log) for name, log in logs.items()}
    times = sorted(run.time_to_train for run in own.values() if run.samples_to_target)
    assert len(times) == 9, "one run failed"
    score = statistics.mean(times[1:])
    assert f"Score {score / 60:.2f} min" in page.words, "the failed run is the slowest"
    assert "result_4: ended as aborted: the data ended" in page.words
    scored = sorted((run for run in own.values() if run.samples_to_target), key=lambda run: run.time_to_train)[1:]
    samples = statistics.mean(run.samples_to_target for run in scored)
    assert f"Samples to target {samples:,.0f} mean of the same runs" in page.words


def test_two_runs_without_success_have_no_score(several: Path, tmp_path: Path) -> None:
    logs = [Path(shutil.copy(several / f"result_{number}.txt", tmp_path)) for number in (0, 1, 4)]
    slower = max(Recomputed(log).time_to_train for log in logs[:2])
    assert f"Score {slower / 60:.2f} min" in page_of(tmp_path / "a.html", *logs).words, "between the two others"
    again = Path(shutil.copy(several / "result_4.txt", tmp_path / "again.txt"))
    page = page_of(tmp_path / "b.html", *logs, again)
    assert "no score: it takes 3 runs, of which all but one reach the target" in page.words
    assert "seeds that several runs have: 1004" in page.words


def test_what_a_log_does_not_say_is_not_guessed(tmp_path: Path) -> None:
    log = a_log(tmp_path / "bare.log")
    text = log.read_text()
    for key in ("micro_batch_size", "seed", "run_stop", "tracked_stats"):
        text = "".join(line for line in text.splitlines(keepends=True) if f'"{key}"' not in line)
    log.write_text(text)
    page = page_of(tmp_path / "report.html", log)
    row = page.table("Seed", "Validation loss")["bare"]
    assert (row["Seed"], row["Ended"], row["Time to train"]) == (
        "not in the log",
        "no end in the log",
        "not in the log",
    )
    row = next(iter(page.table("Peak, dense bf16").values()))
    assert {row[name] for name in ("Devices", "GPU", "Tokens/s per device", "MFU")} == {"not in the log"}
    assert "The training loss is not in the log." in page.words and "Memory is not in the log." in page.words
    assert "the run goes on, or was killed" in page.words

    page = page_of(tmp_path / "told.html", log, devices=16, gpu="B200")
    row = next(iter(page.table("Peak, dense bf16").values()))
    own = Recomputed(log)
    assert own.tokens_per_second / 16 * FLOPS_PER_TOKEN / PEAKS["B200"] == figure(row["MFU"]), (
        "what the user says counts"
    )


def test_devices_follow_from_the_log(tmp_path: Path) -> None:
    """GBS 32 of 1 sequence each over DP=8, TP=2, CP=2: the log's writer is told DP=8."""
    settings = replace(SETTINGS, tensor_parallel_size=2, context_parallel_size=2)
    page = page_of(tmp_path / "report.html", a_log(tmp_path / "a.log", settings=settings), devices=5)
    assert next(iter(page.table("Peak, dense bf16").values()))["Devices"] == "32"


def test_another_model_has_no_mfu(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log", departures=["SIZE=demo: the closed division has 8b"])
    page = page_of(tmp_path / "report.html", log, gpu="H200")
    assert next(iter(page.table("Peak, dense bf16").values()))["MFU"] == "not in the log"
    assert "outside the closed division: SIZE=demo: the closed division has 8b" in page.words


def test_a_restart_without_metrics_is_a_bound(run_directory: Path, tmp_path: Path) -> None:
    log = tmp_path / "alone.log"
    log.write_bytes((run_directory / paths.MLPERF_LOG).read_bytes())
    own = Recomputed(log)
    places = [line["key"] for line in own.lines].index("run_resumed")
    gap = (own.lines[places]["time_ms"] - own.lines[places - 1]["time_ms"]) / 1000
    row = page_of(tmp_path / "report.html", log).table("Went on after", "Time lost")["alone"]
    assert row["Time lost"].startswith("at most ") and gap == figure(row["Time lost"])


def test_a_run_that_goes_on_after_a_restart(run_directory: Path, tmp_path: Path) -> None:
    """The stretch in which it was restarted has no end yet, and so no part in the time of training."""
    directory = tmp_path / "run"
    shutil.copytree(run_directory, directory)
    log = directory / paths.MLPERF_LOG
    lines = log.read_text().splitlines(keepends=True)
    (resumed,) = [number for number, line in enumerate(lines) if '"run_resumed"' in line]
    log.write_text("".join(lines[: resumed + 1]))
    page = page_of(tmp_path / "report.html", directory)
    blocks = [json.loads(line.partition(TOKEN)[2]) for line in lines[:resumed] if '"block_st' in line]
    ended = zip(blocks[::2], blocks[1::2], strict=False)
    row = page.table("Training", "Initialisation before")["run"]
    assert sum(stop["time_ms"] - start["time_ms"] for start, stop in ended) / 1000 == figure(row["Training"])
    assert figure(row["Restarts"]) != 0.0 and row["Time to train"] == "not in the log"


def test_metrics_from_before_memory_was_measured(run_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run_directory, directory)
    metrics = directory / paths.METRICS
    text = re.sub(r', "memory": (null|\d+)', "", metrics.read_text())
    assert text != metrics.read_text()
    metrics.write_text(text)
    page = page_of(tmp_path / "report.html", directory)
    assert "Could not be read" not in page.words
    steps = [event["seconds"] for event in map(json.loads, text.splitlines()) if event["event"] == "step"]
    assert_steps(page, "run", steps)
    outcome = Outcome("success", "target reached", 0, 5376, SAMPLES)
    assert "validation loss 3.2900, target 3.3" in list(summary.lines(directory, SETTINGS, outcome))


def test_memory_is_shown_as_logged(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    stat = {"time_ms": 1, "key": "tracked_stats", "value": {"max_memory_gb": 70.5}, "metadata": {}}
    with log.open("a") as file:
        file.writelines(
            f"{TOKEN}{json.dumps(stat | {'value': {'max_memory_gb': used}})}\n" for used in (70.5, 93.25, 81)
        )
    row = page_of(tmp_path / "report.html", log).table("Largest value in the log, in its unit")["a"]
    assert row["Largest value in the log, in its unit"] == "max_memory_gb: 93.25"


# --- Published logs -----------------------------------------------------------------------------------------------


@needs_published
def test_all_published_logs(tmp_path: Path) -> None:
    directories = sorted(path for path in PUBLISHED.iterdir() if path.is_dir())
    page = page_of(tmp_path / "report.html", *directories)
    logs = {f"{log.parent.name}/{log.stem}": log for log in PUBLISHED.glob("*/result_*.txt")}
    assert len(logs) == 30
    own = {name: assert_run(page, name, log) for name, log in logs.items()}
    for name, run in own.items():
        assert_steps(page, name, run.step_seconds)
    assert "could not be read" not in page.words.lower()

    with (SHARED / "published_v5.1.csv").open() as file:
        published = {f"{row['org']}__{row['system']}": row for row in csv.DictReader(file)}
    summary = list(page.table("Score", "At target").values())
    for directory, row in zip(directories, summary, strict=True):
        of_system = [run for name, run in own.items() if name.startswith(directory.name)]
        times = sorted(run.time_to_train for run in of_system)
        assert statistics.median(times) == figure(row["Time to train"])
        assert statistics.median(run.tokens_per_second for run in of_system) == figure(row["Tokens/s"])
        assert (row["Runs"], row["At target"]) == ("10", "10")
        assert statistics.median(statistics.median(run.step_seconds) for run in of_system) == figure(row["Step"])
        score = statistics.mean(times[1:-1])
        assert score == figure(row["Score"])
        scaling = directory / "scaling.json"
        factor = json.loads(scaling.read_text())["scaling_factor"] if scaling.exists() else 1.0
        assert score / 60 * factor == pytest.approx(float(published[directory.name]["score_scaled_min"]), abs=6e-4)
        scored = sorted(of_system, key=lambda run: run.time_to_train)[1:-1]
        assert statistics.mean(run.samples_to_target for run in scored) == figure(row["Samples to target"])
        speed = float(published[directory.name]["train_seq_s"]) * 8192
        assert figure(row["Tokens/s"]).expected == pytest.approx(speed, rel=2e-3)


@needs_published
def test_lines_are_those_of_the_checkers_parser() -> None:
    for log in PUBLISHED.glob("*/result_*.txt"):
        expected, failed = ruleset_610.parse_file(log)
        with log.open("rb") as file:
            found = list(module.scan(file))
        assert not failed
        said = [(line.timestamp, line.key, line.value["value"], line.value["metadata"]) for line in expected]
        assert [(one.time_ms, one.key, one.value, one.metadata) for one in found] == said, log


@needs_published
def test_mfu_is_the_published_one(tmp_path: Path) -> None:
    logs = PUBLISHED / "AMD__MI355X_EPYC_9575F_pytorch"
    page = page_of(tmp_path / "report.html", logs, devices=8, gpu="MI355X")
    row = next(iter(page.table("Peak, dense bf16").values()))
    assert figure(row["MFU"]).expected == pytest.approx(0.767, abs=1e-3)


# --- Damage -------------------------------------------------------------------------------------------------------


def chattered(text: str) -> str:
    """A log between the words of its job: ranks' prefixes, progress bars, a launcher's echo."""
    return "".join(
        f"+ echo 'trial {number}'\n0: \rEpoch 0:  17%|##   | 20/122\r7: [NeMo I] iteration {number}\n0: {line}\r\n"
        for number, line in enumerate(text.splitlines())
    )


def on_one_line(text: str) -> str:
    """A log whose lines progress bars have made one of 6 MB."""
    return "".join("\r" + "Epoch 0: 17%\r" * 4000 + line for line in text.splitlines())


@pytest.mark.parametrize(
    "how", [chattered, on_one_line, lambda text: text.replace("\n", "\r\n"), lambda text: text.rstrip("\n")]
)
def test_chatter_changes_nothing(tmp_path: Path, how: Callable[[str], str]) -> None:
    log = a_log(tmp_path / "a.log")
    plain = page_of(tmp_path / "plain.html", log)
    log.write_bytes(how(log.read_text()).encode())
    other = page_of(tmp_path / "other.html", log)
    assert other.tables == plain.tables and other.plots == plain.plots


def test_a_compressed_log(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    compressed = gzip.compress(log.read_bytes())
    plain = page_of(tmp_path / "plain.html", log)
    log.write_bytes(compressed)
    assert page_of(tmp_path / "packed.html", log).tables == plain.tables
    log.write_bytes(compressed[: len(compressed) * 2 // 3])
    page = page_of(tmp_path / "cut.html", log)
    assert "the compressed file ends too early" in page.words
    assert page.table("Seed", "Validation loss")["a"]["Ended"] == "no end in the log"


DAMAGE = {
    "{not json": "no JSON",
    "": "nothing behind the token",
    '{"time_ms": 1, "key": "seed", "value": 7}': "no metadata",
    '{"time_ms": true, "key": "seed", "value": 7, "metadata": {}}': "time_ms is true",
    '{"time_ms": NaN, "key": "seed", "value": 7, "metadata": {}}': "time_ms is NaN",
    '{"time_ms": "x", "key": "seed", "value": 7, "metadata": {}}': "could not convert",
    '{"time_ms": 1, "key": "tracked_stats", "value": 3, "metadata": {}}': "the value of tracked_stats is no object",
    '{"time_ms": 1, "key": "submission_org", "value": "\\ud800", "metadata": {}}': "codec can't encode character",
    '{"time_ms": 1' + "0" * 400 + ', "key": "seed", "value": 7, "metadata": {}}': "too large",
    "[" * 100_000: "recursion",
}


def test_damaged_lines_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = a_log(tmp_path / "a.log")
    plain = page_of(tmp_path / "plain.html", log)
    lines = log.read_text().splitlines()
    for number, text in enumerate(DAMAGE):
        lines.insert(10 * number + 3, f"0: {TOKEN}{text}")
    log.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    page = page_of(tmp_path / "other.html", log)
    printed = capsys.readouterr().out
    assert page.tables == plain.tables, "damaged lines are in no figure"
    for where in (page.words, printed):
        assert f"a.log: {len(DAMAGE)} damaged lines" in where
        for number, why in enumerate(DAMAGE.values()):
            assert re.search(rf"line {10 * number + 4}: .*{why}", where), why


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
def test_a_line_that_another_begins_within_is_damage(tmp_path: Path, half: bool) -> None:
    log = a_log(tmp_path / "a.log")
    lines = log.read_text().splitlines(keepends=True)
    plain = page_of(tmp_path / "plain.html", log)
    log.write_text("".join(["0: step 3 " + line[: 60 if half else -1] + line for line in lines]))
    page = page_of(tmp_path / "report.html", log)
    assert page.tables == plain.tables, "the last on a line counts, as for MLCommons' reader"
    assert f"a.log: {len(lines)} damaged lines" in page.words
    assert "line 1: another line begins within it" in page.words and "line 9: another line begins" in page.words


def test_many_damaged_lines_are_not_all_named(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    with log.open("a") as file:
        file.write(f"{TOKEN}damaged\n" * 500)
    page = page_of(tmp_path / "report.html", log)
    assert "a.log: 500 damaged lines" in page.words and "a.log: 480 more" in page.words


@pytest.mark.parametrize("cut", ['"time_ms": 17', ":::MLL", ":::MLLOG ", "eval_accuracy"])
def test_a_log_that_was_cut_off(tmp_path: Path, cut: str) -> None:
    log = a_log(tmp_path / "a.log")
    text = log.read_text()
    end = text.rindex(cut, 0, text.rindex("block_start")) + len(cut)
    log.write_text(text[:end])
    page = page_of(tmp_path / "report.html", log)
    assert f"a.log: 1 damaged line a.log, line {text.count(chr(10), 0, end) + 1}" in re.sub(
        r"\s*a: a", " a", page.words
    )


def test_damaged_metrics(run_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    for name in (paths.MLPERF_LOG, paths.SETTINGS, paths.METRICS):
        (directory / name).write_bytes((run_directory / name).read_bytes())
    (directory / paths.RECORD).write_text('{"half')
    metrics = directory / paths.METRICS
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines[:100], '{"event": "step"}', '"a"', *lines[100:], lines[-3][:40]]))
    page = page_of(tmp_path / "report.html", directory)
    for said in ("metrics.jsonl: 3 damaged lines", "line 101: no seconds", f"line {len(lines) + 3}: no JSON"):
        assert said in page.words, said
    steps = [event["seconds"] for event in map(json.loads, lines) if event["event"] == "step"]
    assert_steps(page, "run", steps)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gsb: 3", "GSB=3 (stored): no such setting"),
        ("a: [", "settings.yaml: damaged"),
        ("- 1", "settings.yaml: damaged"),
    ],
)
def test_settings_that_cannot_be_read(run_directory: Path, tmp_path: Path, text: str, why: str) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / paths.MLPERF_LOG).write_bytes((run_directory / paths.MLPERF_LOG).read_bytes())
    (directory / paths.SETTINGS).write_text(text)
    page = page_of(tmp_path / "report.html", directory)
    assert why in page.words
    assert page.table("Seed", "Validation loss")["run"]["Seed"] == "1234", "the log is read all the same"


def test_bytes_of_all_kinds(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    plain = page_of(tmp_path / "plain.html", log)
    noise = random.Random(1).randbytes(3_000_000)
    log.write_bytes(noise + b"\n" + log.read_bytes() + bytes(3_000_000))
    assert page_of(tmp_path / "other.html", log).tables == plain.tables


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_line_anywhere_in_the_blocks_of_reading(blocks: int) -> None:
    line = f'{TOKEN}{{"time_ms": 5, "key": "seed", "value": 7, "metadata": {{}}}}'.encode()
    for behind in range(-len(line) - 2, 2):
        data = b"x" * (blocks * module.BLOCK + behind) + line + b"\n" + line
        found = list(module.scan(io.BytesIO(data)))
        assert [(one.number, getattr(one, "value", one)) for one in found] == [(1, 7), (2, 7)], behind


def test_an_evaluation_without_a_number_is_named(tmp_path: Path) -> None:
    """A loss that is no number, or after no one knows how many samples: the page says what it left out."""
    log = a_log(tmp_path / "a.log", validation_losses=[4.0, 3.9, 3.8, 3.25])
    lines = log.read_text().splitlines()
    first, second, *_ = [number for number, line in enumerate(lines) if '"eval_accuracy"' in line]
    lines[first] = lines[first].replace('"value": 4.0', '"value": NaN')
    lines[second] = lines[second].replace('"samples_count": 24576', '"samples_count": "many"')
    log.write_text("\n".join(lines) + "\n")
    page = page_of(tmp_path / "report.html", log)
    for number, said in ((first, "NaN at samples_count 12288"), (second, '3.9 at samples_count "many"')):
        assert f"a: eval_accuracy in line {number + 1}: {said}; it is in no figure" in page.words
    (drawn,) = traces(page, "Validation loss")
    assert list(array(drawn["x"])) == [36_864, 49_152]
    assert "in no figure" not in page_of(tmp_path / "whole.html", a_log(tmp_path / "whole.log")).words


def test_a_success_that_no_evaluation_bears_out_is_named(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log", validation_losses=[3.5, 3.4])
    page = page_of(tmp_path / "report.html", log)
    assert page.table("Seed", "Validation loss")["a"]["Ended"] == "success"
    assert "a: says success, but no evaluation reached 3.3" in page.words
    assert "says success" not in page_of(tmp_path / "whole.html", a_log(tmp_path / "whole.log")).words


def test_a_line_without_an_end_between_others() -> None:
    """What is longer than a block is cut where a line begins, and still known to have none of its own."""
    line = f'{TOKEN}{{"time_ms": 5, "key": "seed", "value": 7, "metadata": {{}}}}'.encode()
    found = list(module.scan(io.BytesIO(line + b"x" * 3000 + line * 100_000)))
    assert len(found) == 100_001
    assert {str(one) for one in found[:-1]} == {"line 1: another line begins within it"}
    assert getattr(found[-1], "value", None) == 7


def test_a_run_that_ends_before_it_starts_has_no_time(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    *lines, last = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines, re.sub(r'"time_ms": \d+', '"time_ms": 5', last)]))
    page = page_of(tmp_path / "report.html", log)
    assert "the log has its run_stop before its run_start; no time to train is given" in page.words
    assert page.table("Seed", "Validation loss")["a"]["Time to train"] == "not in the log"


def test_a_log_of_two_runs_says_so(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    log.write_text(log.read_text() * 2)
    page = page_of(tmp_path / "report.html", log)
    assert "2 run_start lines; no time to train is given" in page.words
    assert page.table("Seed", "Validation loss")["a"]["Time to train"] == "not in the log"


ODD = ["x", None, True, -1, 1e400, 10**400, [], {}, "9" * 400, 0]


def test_values_of_the_wrong_kind_end_nothing(tmp_path: Path) -> None:
    """Every field of every kind of line, with values that no log should have."""
    log = a_log(tmp_path / "a.log")
    lines = [json.loads(line.partition(TOKEN)[2]) for line in log.read_text().splitlines()]
    chance = random.Random(3)
    found = []
    for number, odd in enumerate(ODD * 4):
        spoilt = [dict(line) for line in lines]
        for line in chance.sample(spoilt, 25):
            line["value"] = odd
            line["metadata"] = dict.fromkeys(("samples_count", "step", "status", "departures", "reason"), odd)
        for line in chance.sample(spoilt, 3):
            line["time_ms"] = odd if isinstance(odd, int | float) and odd < 10**400 else 5
        path = tmp_path / f"{number}.log"
        path.write_text("".join(f"{TOKEN}{json.dumps(line)}\n" for line in spoilt))
        found.append(path)
    page = page_of(tmp_path / "report.html", *found)
    assert len(page.table("Seed", "Validation loss")) == len(found)
    for titles in (("Time to train", "Ended"), ("Initialisation before",), ("Median", "99%"), ("Peak, dense bf16",)):
        for row in page.table(*titles).values():
            figures = {title: cell for title, cell in row.items() if title not in ("Run", "Seed", "Ended", "System")}
            assert not re.search("nan|inf|None", " ".join(figures.values())), figures


def test_names_cannot_end_the_script(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script>"
    log = a_log(tmp_path / "a.log", settings=replace(SETTINGS, submission_org=nasty))
    page_of(tmp_path / "report.html", log)
    assert nasty not in (tmp_path / "report.html").read_text()


# --- Speed and memory ---------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_chatter(tmp_path: Path) -> None:
    """The whole gigabyte: python3 -m dev.bench.read_logs."""
    small, large = (read_logs.make(tmp_path / f"{size}.log", size) for size in (2, 40))
    _, little, _ = read_logs.measured(read_logs.OURS, small)
    seconds, much, found = read_logs.measured(read_logs.OURS, large)
    steps = len(re.findall(rb'"train_step_time"', large.read_bytes()))
    assert found == 2 * steps, "each step has a time and a loss"
    assert much - little < 15, f"{little:.0f} MiB for 2 MB, {much:.0f} MiB for 40 MB"
    assert seconds < 5


# --- What a user types --------------------------------------------------------------------------------------------


def test_mistakes_are_one_line(
    tmp_path: Path, several: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, words, fifo = tmp_path / "empty.log", tmp_path / "words.log", tmp_path / "pipe"
    empty.touch()
    words.write_text("no log\n")
    os.mkfifo(fifo)
    log = several / "result_0.txt"
    for given, named in (
        ([tmp_path / "none.log"], "none.log: no such file"),
        ([empty], "empty.log: has no :::MLLOG line"),
        ([log, words], "words.log: has no :::MLLOG line"),
        ([tmp_path], "has no mlperf.log and no result_*.txt"),
        ([fifo], "pipe: no file"),
        ([log, "--gpu", "H20"], "--gpu H20: not one of"),
        ([log, "--devices", "0"], "--devices"),
        ([log, "-o", tmp_path], "is a directory"),
        ([log, "-o", log], "is one of the logs to read"),
        ([log, "-o", fifo], "pipe: is no regular file"),
        ([words, "-o", log / "none" / "report.html"], "result_0.txt is no directory that can be written to"),
        ([], "Missing argument 'runs'"),
    ):
        monkeypatch.setattr(sys, "argv", ["llama31", "report", *map(str, given)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and named in said and said.count("\n") == 1, said
    assert log.read_text().startswith(TOKEN)


@pytest.mark.parametrize("verb", ["report", "check"])
def test_nothing_heavy_for_a_mistake(verb: str) -> None:
    modules, code, said = imported_by(verb, "/nonexistent")
    assert (code, said.count("\n")) == (2, 1) and not {"plotly", "scipy"} & modules and is_light(modules)


def test_a_path_that_cannot_be_looked_at_is_a_mistake() -> None:
    """As one below a directory that is somebody else's; a test may run as root, whom nothing is closed to."""
    path = Path("a" * 300)
    for look in (paths.latest_run, lambda path: find_logs.find([path]), status.run_dirs_of):
        with pytest.raises(UserError, match=r"^a{300}: File name too long$"):
            look(path)


def test_where_the_page_goes(several: Path, tmp_path: Path) -> None:
    done = call(
        sys.executable, "-m", "llama31", "report", several / "result_0.txt", cwd=tmp_path, PYTHONPATH=str(REPOSITORY)
    )
    assert (done.returncode, done.stdout) == (0, "report: report.html\n"), done.stderr
    assert Page(tmp_path / "report.html").table("Seed", "Validation loss")["result_0"]["Seed"] == "1000"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"], "nothing else is left"


def test_a_link_to_a_page_stays_one(several: Path, tmp_path: Path) -> None:
    link, page = tmp_path / "link.html", tmp_path / "page.html"
    link.symlink_to(page)
    command.report([several / "result_0.txt"], link, None, "")
    assert link.is_symlink() and page.is_file()


def test_which_logs(tmp_path: Path, several: Path) -> None:
    job = tmp_path / "submission" / "job-7"
    job.mkdir(parents=True)
    a_log(job / paths.MLPERF_LOG)
    (job.parent / paths.LATEST).symlink_to("job-7")
    assert [log.resolve() for log in find_logs.find([tmp_path / "submission"])] == [job / paths.MLPERF_LOG]
    both = find_logs.find([tmp_path / "submission", job, job / paths.MLPERF_LOG])
    assert len(both) == 1, "a run that is given twice counts once"
    found = find_logs.find([several])
    assert [log.name for log in found] == [f"result_{number}.txt" for number in range(10)]
    (several / "result_10.txt").symlink_to(several / "result_0.txt")
    assert len(find_logs.find([several])) == 10
    (several / "result_10.txt").unlink()
    assert len(set(find_logs.names([*found, job / paths.MLPERF_LOG]))) == 11


def test_rules_of_the_score_are_the_benchmarks() -> None:
    assert rules.RUNS_PER_SUBMISSION == 10
    with pytest.raises(UserError):
        find_logs.find([Path("/nonexistent")])
