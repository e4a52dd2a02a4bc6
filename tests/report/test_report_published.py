"""The report beside published systems: the tables of the rounds, what is plotted with them, and systems kept apart."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkout import SHARED
from pages import array
from report_figures import traces
from report_logs import TOKEN, a_log, page_of

from dev.support.benchmark_run import SETTINGS
from llama31.config import paths
from llama31.estimates.gpus import GPUS, key_of
from llama31.report import published
from llama31.settings import Settings

FIGURES = ("score_minutes", "mean_samples", "tokens_per_second_per_accelerator", "mfu_bf16_peak")
SOURCE = ("score_scaled_min", "samples_mean", "tok_s_per_accel", "mfu_bf16peak")


@pytest.mark.parametrize(("name", "count"), [("v5.1", 39), ("v6.0", 16)])
def test_the_tables_of_the_rounds(name: str, count: int) -> None:
    found = [one for one in published.published() if one.round == name]
    assert len(found) == count
    if not SHARED.is_dir():
        return  # the sources of the tables are not part of the repository
    with (SHARED / f"published_{name}.csv").open() as file:
        source = list(csv.DictReader(file))
    for one, row in zip(found, source, strict=True):
        assert (one.org, one.system, one.accelerator) == (row["org"], row["system"], row["accelerator_model"])
        assert (one.accelerators, one.gbs, one.precision) == (int(row["n_accel"]), int(row["gbs"]), row["precision"])
        if row["score_scaled_min"]:
            assert one.basis == row.get("score_from", "published")
            assert [getattr(one, figure) for figure in FIGURES] == [
                float(row[key]) if row[key] else None for key in SOURCE
            ]
        else:
            assert (one.score_minutes, one.mean_samples, one.basis) == (None, None, "none")


def test_rounds_and_bases_are_distinguished(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", a_log(tmp_path / "a.log"), devices=8)
    old, new, ours = traces(page, "Time to train over")
    assert (old["name"], new["name"]) == ("MLPerf v5.1", "MLPerf v6.0")
    assert set(old["marker"]["symbol"]) == {"circle"}
    assert set(new["marker"]["symbol"]) == {"square", "square-open"}
    assert len(array(new["x"])) == 15, "Oracle's system has no score"
    assert list(array(ours["x"])) == [8]
    rows = page.table("Round", "Basis")
    assert rows["NVIDIA: theia_ngpu8_ngc26.04_nemo"]["Basis"] == "derived"
    assert rows["Oracle: 8xMI355X_2xEPYC_9575F"]["Minutes"] == "unknown"
    assert rows["Dell: 1xXE7740x8H200-NVL-141GB"]["MFU"] == "unknown"
    (noted,) = [name for name in rows if "AS-4126GS" in name]
    assert "gives 86.406" in noted


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        (SETTINGS, {"departures": ["SIZE=demo: the closed division has 8b"]}),
        (replace(SETTINGS, target=5.0), {}),
        (replace(SETTINGS, seq_length=4096), {}),
    ],
    ids=["model", "target", "sequence length"],
)
def test_other_runs_are_not_compared(settings: Settings, how: dict[str, list[str]], tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", a_log(tmp_path / "a.log", settings=settings, **how), devices=8)
    assert len(traces(page, "Time to train over")) == len(published.ROUNDS)
    assert not [name for name in page.table("Round", "Basis") if name.startswith("this report")]


# --- Which runs are one system ------------------------------------------------------------------------------------


def results(directory: Path, count: int, seed: int) -> Path:
    directory.mkdir()
    for number in range(count):
        a_log(directory / f"result_{number}.txt", seed + number)
    return directory


def test_equal_words_in_two_directories_are_two_systems(tmp_path: Path) -> None:
    first, second = results(tmp_path / "first", 3, 10), results(tmp_path / "second", 3, 20)
    page = page_of(tmp_path / "report.html", first, second)
    rows = page.table("Score", "At target")
    assert [row["Runs"] for row in rows.values()] == ["3", "3"]
    assert all(row["Score"] != "no score" for row in rows.values())
    names = "Example, 8xH200, GBS 32, first; Example, 8xH200, GBS 32, second"
    assert f"{names}: their logs describe one system, but are in 2 directories, so each has a score" in page.words


def test_submitted_runs_are_one_system(tmp_path: Path) -> None:
    """The log of each is in the directory of a job within its run directory."""
    for number in range(3):
        job = tmp_path / f"run-seed{number}" / f"job-{number}"
        job.mkdir(parents=True)
        a_log(job / paths.MLPERF_LOG, number)
        (job / paths.START).write_text("{}")
        (job.parent / paths.SUBMISSION).write_text("{}")
        (job.parent / paths.LATEST).symlink_to(job.name)
    page = page_of(tmp_path / "report.html", *sorted(tmp_path.glob("run-*")))
    assert "mean of 1 of 3 runs" in page.words and "directories" not in page.words


def test_a_score_covers_at_most_ten_runs(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", results(tmp_path / "many", 11, 10))
    assert "no score: it covers at most 10 runs, these are 11; give the 10 that count" in page.words


# --- GPUs and their peaks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("RTX PRO 6000 Blackwell", "RTX-PRO-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
        ("H200 NVL", "H200-NVL"),
        ("h200_nvl", "H200-NVL"),
        ("H200", "H200"),
        ("H100 NVL", None),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA Blackwell Ultra GPU (GB300)", "GB300"),
        *((key, key) for key in GPUS),
    ],
)
def test_gpus_by_name(name: str, key: str | None) -> None:
    assert key_of(name) == key


def fast_log(path: Path, precision: str) -> Path:
    """A log of devices that do 4 PFLOP/s each, in the precision that it states."""
    log = a_log(path)
    lines = []
    for line in log.read_text().splitlines():
        fields = json.loads(line.removeprefix(TOKEN))
        if fields["key"] == "lowest_numerical_precision_in_linear":
            fields["value"] = precision
        lines.append(TOKEN + json.dumps(fields))
    log.write_text("\n".join(lines) + "\n")
    return log


def test_a_peak_is_named_and_the_precisions_own_stands_beside_it(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", fast_log(tmp_path / "a.log", "nvfp4"), devices=1, gpu="RTX PRO 6000")
    row = next(iter(page.table("Peak, dense bf16").values()))
    assert row["Peak of the precision used"] == "fp4: 2,000 TFLOP/s"
    mfu, own = (float(row[title].rstrip("%")) for title in ("MFU", "Utilisation of it"))
    assert mfu > 100 and own == pytest.approx(mfu / 4, abs=0.1)
    assert "MFU above 100%, of RTX-PRO-6000's bf16 peak" in page.words
    assert "fp4 peak: check the number of devices and the GPU" in page.words, "faster than the GPU can be"
    page = page_of(tmp_path / "new.html", fast_log(tmp_path / "c.log", "nvfp4"), devices=8, gpu="GB300")
    assert "fp4 peak: it computes in a narrower precision than bf16" in page.words
    page = page_of(tmp_path / "bf16.html", fast_log(tmp_path / "b.log", "bfloat16"), devices=8, gpu="H200")
    assert "check the number of devices and the GPU" in page.words and "narrower precision" not in page.words
    row = next(iter(page.table("Peak, dense bf16").values()))
    assert row["Peak of the precision used"] == "bf16: 989 TFLOP/s" and row["Utilisation of it"] == row["MFU"]
    assert GPUS["H200"].peak(None) == ("", None), "a log that states no precision"


# --- Logs of v6.0 -------------------------------------------------------------------------------------------------

LOGGED_EVERY = 32  # steps
STEP_SECONDS = 0.5


def log_of_v60(path: Path) -> Path:
    """A log as NVIDIA's code of v6.0 writes it: statistics name samples, not steps, and some are of no step."""
    log = a_log(path)
    batch, block, lines, evaluated = SETTINGS.gbs, 12_288, [], 0

    def stats(value: dict[str, float], samples: int) -> str:
        entry = {"time_ms": 1, "key": "tracked_stats", "value": value, "metadata": {"samples_count": samples}}
        return TOKEN + json.dumps(entry)

    for line in log.read_text().splitlines():
        fields = json.loads(line.removeprefix(TOKEN))
        if fields["key"] == "block_stop":
            lines.append(stats({"train_step_time": 0.25}, block))
        lines.append(line)
        if fields["key"] == "block_start":
            lines.append(stats({"train_step_time": 0.009, "reduced_train_loss": 4.5}, evaluated))
            for step in range(LOGGED_EVERY, block // batch, LOGGED_EVERY):
                seconds = STEP_SECONDS + 0.001 * (step % 7)
                loss = {"train_step_time": seconds, "reduced_train_loss": 4.0 + 1 / step}
                lines.append(stats(loss, evaluated + step * batch))
            evaluated += block
    log.write_text("\n".join(lines) + "\n")
    return log


def test_statistics_that_name_samples(tmp_path: Path) -> None:
    page = page_of(tmp_path / "report.html", log_of_v60(tmp_path / "a.log"), devices=8, gpu="H200")
    assert "The training loss is not in the log" not in page.words
    blocks = len(page.plot("Validation loss")["data"][0]["x"])
    (row,) = page.table("Median", "99%").values()
    assert row["Values"] == f"{blocks * 11:,}: steps in the log"
    assert row["Outliers"] == "0", "neither block means nor a line before its step are steps"
    (loss,) = traces(page, "Training loss")
    assert len(array(loss["x"])) == blocks * 12, "each line's loss, that of the first after an evaluation too"
    assert np.all(np.diff(array(loss["x"])) > 0)
