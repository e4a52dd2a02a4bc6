"""A run on synthetic tokens needs no files; it is logged as open, and resumes like any other."""

from pathlib import Path

import pytest
from runs import CUT_RUN, run_forked, run_llama31

from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.run_dir.events import BAD_INPUT, TARGET_NOT_REACHED

MOCK = {**CUT_RUN, "MOCK_DATA": 1, "PREPROCESSED_PATH": "", "TOKENIZER_PATH": "", "EVAL_EVERY": 32}


@pytest.mark.slow
def test_two_ranks_train_without_files_and_resume(tmp_path: Path) -> None:
    given = {**MOCK, "JOB_DIR": tmp_path, "GPUS_PER_NODE": 2, "STOP_AT_STEP": 6}
    whole = run_forked(given)
    assert whole.exit_code == TARGET_NOT_REACHED, whole.printed + whole.logs()
    losses = whole.losses()
    assert len(losses) == 6
    assert all(11 < loss < 13 for loss in losses), "ln 128256 = 11.8: nothing can be learned from random ids"
    log = (whole.run_dir / paths.MLPERF_LOG).read_text()
    assert '"submission_division", "value": "open"' in log
    assert not (tmp_path / "index").exists(), "synthetic data has no index"

    saving = {**given, "SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path / "checkpoints"}
    run_forked({**saving, "STOP_AT_STEP": 4})
    resumed = run_forked(saving)
    assert resumed.losses() == losses


def test_a_dry_run_of_the_benchmark_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.run(["--dryrun", "MOCK_DATA=1", f"JOB_DIR={tmp_path}", "GPUS_PER_NODE=8"]) == 0
    printed = capsys.readouterr().out
    assert "synthetic tokens (MOCK_DATA=1)" in printed
    assert "- MOCK_DATA=1: the closed division trains on C4, not on synthetic tokens" in printed


def test_a_dry_run_shows_the_plan_before_what_is_missing(tmp_path: Path) -> None:
    run = run_llama31({"JOB_DIR": tmp_path, "GPUS_PER_NODE": 8, "GPU": "H200", "DEVICE": "cuda"}, "--dryrun")
    assert run.exit_code == BAD_INPUT
    plan, missing = run.printed.index("memory of a GPU: about"), run.printed.index("PREPROCESSED_PATH is empty; set it")
    assert plan < missing
    assert "TOKENIZER_PATH is empty; set it" in run.printed[missing:]


def test_a_dry_run_shows_no_plan_of_settings_that_cannot_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as raised:
        launch.run(["--dryrun", f"JOB_DIR={tmp_path}", "GBS=30", "GPUS_PER_NODE=8"])
    assert raised.value.lines[0].startswith("GBS=30 is not a multiple")
    assert raised.value.lines[1].startswith("PREPROCESSED_PATH is empty")
    assert capsys.readouterr().out == ""


def test_an_index_of_synthetic_data_is_refused(tmp_path: Path) -> None:
    from llama31.cli import build_index

    with pytest.raises(UserError, match="synthetic tokens have no index"):
        build_index.index(["MOCK_DATA=1", "SEEDS=1", f"JOB_DIR={tmp_path}"])
