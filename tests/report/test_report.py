"""`llama31 report`: every figure is recomputed from the log independently, for our logs and published ones."""

import csv
import json
import re
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkout import PUBLISHED_LOGS, SHARED
from mlperf_logging.compliance_checker.mlp_parser import ruleset_610
from pages import array, figure
from report_figures import Recomputed, assert_run, assert_steps, percentiles, traces
from report_logs import FLOPS_PER_TOKEN, PEAKS, TOKEN, a_log, page_of

from dev.support.benchmark_run import SAMPLES, SETTINGS
from llama31.config import paths
from llama31.mlperf.log import reader as module
from llama31.run_dir import summary
from llama31.run_dir.events import Outcome

needs_published = pytest.mark.skipif(
    not PUBLISHED_LOGS.is_dir(), reason="MLCommons' published logs are not in ../shared"
)


def test_a_run_directory(run_directory: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", run_directory)
    name, log = run_directory.name, run_directory / paths.MLPERF_LOG
    metrics = [json.loads(line) for line in (run_directory / paths.METRICS).read_text().splitlines()]
    steps = [event for event in metrics if event["event"] == "step"]

    # Lost: from the block's start to run_resumed, except the steps and saves up to the checkpoint.
    probe = Recomputed(log)
    (resumed,) = probe.of("run_resumed")
    block = max(line["time_ms"] for line in probe.of("block_start") if line["time_ms"] < resumed["time_ms"])
    trained = sum(event["seconds"] for event in steps if 2688 < event["step"] <= 2880)
    saved = sum(event["seconds"] for event in metrics if event["event"] == "checkpoint" and event["step"] == 2784)
    lost = (resumed["time_ms"] - block) / 1000 - trained - saved
    assert lost > 100, "the test must lose time"

    own = assert_run(page, name, log, lost=lost)
    assert_steps(page, name, [event["seconds"] for event in steps])
    restart = page.table("Resumed after", "Time lost")[name]
    assert figure(restart["Resumed after"]) == 2880 * 32
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
    assert row["The plan's estimate per GPU"] == "110.9 GB", (
        "the figure of docs/memory-and-layout.md for the H200 at MBS=1 and TP=1"
    )
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


def test_several_runs_and_their_score(ten_logs: Path, tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", ten_logs)
    logs = {log.stem: log for log in sorted(ten_logs.iterdir())}
    own = {name: assert_run(page, name, log) for name, log in logs.items()}
    times = sorted(run.time_to_train for run in own.values() if run.samples_to_target)
    assert len(times) == 9, "one run failed"
    score = statistics.mean(times[1:])
    assert f"Score {score / 60:.2f} min" in page.words, "the failed run is the slowest"
    assert "result_4: ended as aborted: the data ended" in page.words
    scored = sorted((run for run in own.values() if run.samples_to_target), key=lambda run: run.time_to_train)[1:]
    samples = statistics.mean(run.samples_to_target for run in scored)
    assert f"Samples to target {samples:,.0f} mean of the same runs" in page.words


def test_two_runs_without_success_have_no_score(ten_logs: Path, tmp_path: Path) -> None:
    logs = [Path(shutil.copy(ten_logs / f"result_{number}.txt", tmp_path)) for number in (0, 1, 4)]
    slower = max(Recomputed(log).time_to_train for log in logs[:2])
    assert f"Score {slower / 60:.2f} min" in page_of(tmp_path / "a.html", *logs).words, "between the two others"
    again = Path(shutil.copy(ten_logs / "result_4.txt", tmp_path / "again.txt"))
    page = page_of(tmp_path / "b.html", *logs, again)
    assert "no score: it needs 3 runs, and all but one must reach the target" in page.words
    assert "seeds used by several runs: 1004" in page.words


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
    assert "the run is still running, or was killed" in page.words

    page = page_of(tmp_path / "with devices and gpu.html", log, devices=16, gpu="B200")
    row = next(iter(page.table("Peak, dense bf16").values()))
    own = Recomputed(log)
    assert own.tokens_per_second / 16 * FLOPS_PER_TOKEN / PEAKS["B200"] == figure(row["MFU"]), (
        "what the user says counts"
    )


def test_devices_follow_from_the_log(tmp_path: Path) -> None:
    """GBS 32 of 1 sequence each over DP=8, TP=2, CP=2: the log's writer gets DP=8."""
    settings = replace(SETTINGS, tensor_parallel_size=2, context_parallel_size=2)
    page = page_of(tmp_path / "report.html", a_log(tmp_path / "a.log", settings=settings), devices=5)
    assert next(iter(page.table("Peak, dense bf16").values()))["Devices"] == "32"


def test_another_model_has_no_mfu(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log", departures=["SIZE=demo: the closed division has 8b"])
    page = page_of(tmp_path / "report.html", log, gpu="H200")
    assert next(iter(page.table("Peak, dense bf16").values()))["MFU"] == "not in the log"
    assert "outside the closed division: SIZE=demo: the closed division has 8b" in page.words


def test_a_restart_without_metrics_is_a_bound(run_directory: Path, tmp_path: Path) -> None:
    log = tmp_path / "bare.log"
    log.write_bytes((run_directory / paths.MLPERF_LOG).read_bytes())
    own = Recomputed(log)
    places = [line["key"] for line in own.lines].index("run_resumed")
    gap = (own.lines[places]["time_ms"] - own.lines[places - 1]["time_ms"]) / 1000
    row = page_of(tmp_path / "report.html", log).table("Resumed after", "Time lost")["bare"]
    assert row["Time lost"].startswith("at most ") and gap == figure(row["Time lost"])


def test_a_run_that_continues_after_a_restart(run_directory: Path, tmp_path: Path) -> None:
    """The interval in which it restarted has no end yet, so it does not count as training time."""
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
    directories = sorted(path for path in PUBLISHED_LOGS.iterdir() if path.is_dir())
    page = page_of(tmp_path / "report.html", *directories)
    logs = {f"{log.parent.name}/{log.stem}": log for log in PUBLISHED_LOGS.glob("*/result_*.txt")}
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


@pytest.mark.slow
@needs_published
def test_lines_are_those_of_the_checkers_parser() -> None:
    for log in PUBLISHED_LOGS.glob("*/result_*.txt"):
        expected, failed = ruleset_610.parse_file(log)
        with log.open("rb") as file:
            found = list(module.scan(file))
        assert not failed
        said = [(line.timestamp, line.key, line.value["value"], line.value["metadata"]) for line in expected]
        assert [(one.time_ms, one.key, one.value, one.metadata) for one in found] == said, log


@needs_published
def test_mfu_is_the_published_one(tmp_path: Path) -> None:
    logs = PUBLISHED_LOGS / "AMD__MI355X_EPYC_9575F_pytorch"
    page = page_of(tmp_path / "report.html", logs, devices=8, gpu="MI355X")
    row = next(iter(page.table("Peak, dense bf16").values()))
    assert figure(row["MFU"]).expected == pytest.approx(0.767, abs=1e-3)
