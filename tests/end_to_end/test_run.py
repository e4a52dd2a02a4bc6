"""Every way in which a run can end; ends that involve processes are tested through run_llama31.sh."""

import json
import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lacking
import numpy as np
import oracle
import pytest
import weights_and_biases
from pages import Page
from runs import SUPPORT, Run, run_forked, run_llama31, stopped_by
from saved_tokenizers import as_transformers_5_saves_it
from tiny import VOCABULARY, make_ids_beyond_the_vocabulary

from llama31 import rules
from llama31.common.units import size
from llama31.config import paths
from llama31.launch import provenance
from llama31.mlperf.check import submission
from llama31.report import command
from llama31.run_dir import record, startup_log
from llama31.run_dir.events import BAD_INPUT, FAILED, INTERRUPTED, TARGET_NOT_REACHED

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(tiny_data: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    return {
        **tiny_data,
        "JOB_DIR": tmp_path / "my runs",
        "SIZE": "tiny",
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "SEQ_LENGTH": 64,
        "GBS": 8,
        "MBS": 2,
        "MAX_LR": 1e-3,
        "WARMUP_STEPS": 5,
        "EVAL_EVERY": 24,
        "EVAL_SAMPLES": 16,
        "SEEDS": 1,
    }


def logged(run: Run) -> list[tuple[str, Any]]:
    """Key and value, or status where there is one, of each event of the MLPerf log."""
    events = oracle.mlperf_events(run.run_dir / paths.MLPERF_LOG)
    return [(event["key"], event["metadata"].get("status", event["value"])) for event in events]


def assert_aborted(run: Run, exit_code: int, *words: str) -> None:
    """The run exited with `exit_code`, one line that contains `words`, and an MLPerf log closed as aborted."""
    assert run.exit_code == exit_code, run.printed + run.logs()
    assert "Traceback" not in run.printed
    assert run.outcome.status == "aborted"
    for word in words:
        assert word in run.outcome.reason
    assert "\n" not in run.outcome.reason
    assert run.outcome.reason in run.printed
    assert logged(run)[-1] == ("run_stop", "aborted")


def test_target_reached(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tokenizer that only transformers 5 itself can load."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    saved = as_transformers_5_saves_it(Path(settings["TOKENIZER_PATH"]), tmp_path / "of transformers 5")
    with tempfile.TemporaryDirectory() as temporary:  # with a short name, as sockets need
        monkeypatch.setenv("TMPDIR", temporary)
        run = run_llama31({**settings, "TOKENIZER_PATH": saved, "GPUS_PER_NODE": 2, "TARGET": 6.5, "WANDB": 1})
        left = [file.name for file in Path(temporary).iterdir() if not file.name.startswith("wandb-")]
        monkeypatch.delenv("TMPDIR")
    assert run.exit_code == 0, run.printed + run.logs()
    assert not left, "temporary files, except the socket of Weights & Biases' own process, which outlives the rank"
    evaluations = run.events("evaluation")
    assert [event["step"] for event in evaluations] == [3], "stops at the first evaluation at or below the target"
    assert run.outcome.status == "success"
    assert run.outcome.consumed_samples == 3 * 8
    assert logged(run)[-1] == ("run_stop", "success")
    assert submission.check([run.run_dir], "6.1.0") == 0
    assert_memory_is_in_the_report(run, Path(settings["JOB_DIR"]) / "report.html")
    stored = record.load_settings(run.run_dir)
    assert (stored.target, stored.size, stored.seeds) == (6.5, "tiny", "1")
    described = json.loads((run.run_dir / paths.RECORD).read_text())
    assert {"command", "commit", "versions"} <= set(described)
    assert list((run.run_dir / paths.TENSORBOARD).glob("events.out.tfevents.*")), "TensorBoard's events are missing"
    assert (Path(settings["JOB_DIR"]) / "latest").resolve() == run.run_dir
    for rank in (0, 1):
        log = (run.run_dir / paths.RANK_LOGS / f"rank-{rank}.log").read_text(errors="replace")
        said = [line.partition(startup_log.MARK)[2] for line in log.splitlines() if startup_log.MARK in line]
        assert said == list(startup_log.PARTS), f"each part of the start, once and in order, on rank {rank}"
    rows = [row for row in weights_and_biases.history(run.run_dir) if "reduced_train_loss" in row]
    assert [float(row["reduced_train_loss"]) for row in rows] == pytest.approx(run.losses())

    command, *differences = provenance.replay(run.run_dir, ["WANDB=0"])
    assert differences == []
    given = dict(word.split("=", 1) for word in shlex.split(command)[2:])
    again = run_forked(given)
    assert again.run_dir != run.run_dir
    assert again.losses() == run.losses(), (
        "a replay repeats a run; forked ranks, which other tests use, are as fresh ones"
    )


def assert_memory_is_in_the_report(run: Run, report: Path) -> None:
    (evaluation,) = run.events("evaluation")
    assert 10**8 < evaluation["memory"] < 10**10, "bytes, of a process that has imported NeMo"
    command.report([run.run_dir], report, None, "")
    (row,) = Page(report).table("Largest value in the log, in its unit").values()
    name, _, value = row["Largest value in the log, in its unit"].partition(": ")
    assert (name, float(value)) == ("max_memory_gb", pytest.approx(evaluation["memory"] / 1e9, abs=5.1e-4))


def test_target_not_reached(settings: dict[str, Any]) -> None:
    run = run_forked({**settings, "STOP_AT_STEP": 7, "START_EVAL_AT": 40})
    assert_aborted(run, TARGET_NOT_REACHED, "TARGET=3.3", "STOP_AT_STEP=7")
    assert run.outcome.memory and run.outcome.memory >= run.events("evaluation")[-1]["memory"]
    assert f"memory: {size(run.outcome.memory)} on the fullest rank" in run.printed
    assert [event["step"] for event in run.events("step")] == [1, 2, 3, 4, 5, 6, 7]
    assert [event["step"] for event in run.events("evaluation")] == [6], "none before START_EVAL_AT, none at the stop"
    assert [value for key, value in logged(run) if key == "eval_accuracy"] == [run.events("evaluation")[0]["loss"]]


def test_training_data_used_up(settings: dict[str, Any]) -> None:
    run = run_forked({**settings, "TRAIN_PARTS": 7, "GBS": 96, "MBS": 8, "EVAL_EVERY": 192})
    available = (np.fromfile(_bin(settings, 7), "<u2").size - 1) // 64
    assert_aborted(run, TARGET_NOT_REACHED, f"{available}")
    assert len(run.events("step")) == available // 96
    evaluated = [event["step"] for event in run.events("evaluation")]
    assert evaluated == list(range(2, available // 96 + 1, 2)), "none but those of the cadence"


def test_loss_that_is_no_number(settings: dict[str, Any]) -> None:
    run = run_forked({**settings, "MAX_LR": 1e20, "WARMUP_STEPS": 1})
    assert_aborted(run, TARGET_NOT_REACHED, "nan", f"step {run.outcome.step}")
    assert run.outcome.step <= 5, "stops at once"


def test_step_that_takes_too_long(settings: dict[str, Any]) -> None:
    run = run_forked({**settings, "STEP_TIME_ATOL": 1})
    assert_aborted(run, TARGET_NOT_REACHED, "STEP_TIME_ATOL=1")


def test_token_ids_beyond_the_vocabulary(settings: dict[str, Any], tmp_path: Path) -> None:
    """Ids that a check of the files' ends misses: the run stops at the first of them."""
    data = make_ids_beyond_the_vocabulary(tmp_path / "preprocessed")
    run = run_forked({**settings, **data, "GPUS_PER_NODE": 2})
    assert_aborted(run, BAD_INPUT, f"token id {VOCABULARY + 7}", f"{VOCABULARY} ids", "TOKENIZER_PATH")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(signum: signal.Signals, settings: dict[str, Any]) -> None:
    run = stopped_by(lambda launcher, _: launcher.send_signal(signum), {**settings, "GPUS_PER_NODE": 2})
    assert_aborted(run, INTERRUPTED, "interrupted at step")


def test_rank_that_is_killed(settings: dict[str, Any]) -> None:
    run = stopped_by(lambda _, ranks: os.kill(ranks[1], signal.SIGKILL), {**settings, "GPUS_PER_NODE": 2})
    assert_aborted(run, FAILED, "step", paths.RANK_LOGS)


def test_ranks_that_get_signals_while_they_fail(settings: dict[str, Any]) -> None:
    """torchrun sends signals when the first rank has failed: the reason of the failure is not lost."""
    script = SUPPORT / "ranks_ended_while_they_fail.py"
    run = run_forked({**settings, "GPUS_PER_NODE": 2}, script=script)
    assert run.exit_code == FAILED
    assert "failed at step 0: ValueError: nothing works" in run.outcome.reason


def test_full_disk(settings: dict[str, Any], small_disk: Path) -> None:
    """The disk fills up while the run writes its records."""
    index = Path(settings["JOB_DIR"]).parent / "index"
    run = run_forked({**settings, "JOB_DIR": small_disk, "TMP_NPY_INDEX": index, "STOP_AT_STEP": 5000})
    assert run.exit_code == BAD_INPUT, run.printed + run.logs()
    assert "Traceback" not in run.printed
    assert "No space left on device" in run.printed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 120 KiB."""
    disk = tmp_path / "small disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", disk], check=False).returncode == 0
    if not mounted:
        lacking.skip("only root can mount a small file system to fill up")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def _bin(settings: dict[str, Any], part: int) -> Path:
    name = rules.token_file_name(rules.train_part_name(part))
    return Path(settings["PREPROCESSED_PATH"], f"{name}.bin")
