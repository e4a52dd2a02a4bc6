"""Jobs that resume, as the launcher starts them: locks, which checkpoints are kept, disk space, the plan."""

import re
import shutil
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
from checkpoints import save, settings_of
from resume_choices import SEED, launched
from runs import arguments

from llama31.checkpoint import disk_space, removal, store
from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.launch import prepare
from llama31.plan import validate
from llama31.run_dir import start_point
from llama31.run_dir.events import SUCCESS, TARGET_NOT_REACHED, Outcome

# Two at once


@pytest.mark.slow
def test_a_run_that_another_job_trains(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    with store.lock(root, SEED), pytest.raises(UserError, match=r"seed 7 .* another job"):
        launched(saving)
    store.lock(root, SEED).close()


def test_a_lock_is_waited_for(root: Path) -> None:
    """The lock of a lost node stays until the file server drops it."""
    held = store.lock(root, SEED)
    timer = threading.Timer(0.5, held.close)
    timer.start()
    store.lock(root, SEED, patience=60).close()
    assert held.closed
    timer.join()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["NEXP=2", "SEEDS="], "holds runs of the seeds 7; name the seeds of all 2 experiments"),
        (["NEXP=2", "SEEDS=9"], "holds runs of the seeds 7; name the seeds of all 2 experiments"),
        (
            ["PARTITION=p", "HOST=login", "CONTINUAL_CKPT=/there", "SEEDS="],
            "on login are not visible here; SEEDS='1'",
        ),
    ],
)
def test_which_runs_to_resume_is_never_guessed(saving: dict[str, str], root: Path, more: list[str], line: str) -> None:
    def seeds(*more: str) -> list[str]:
        resolved = prepare.with_absolute_paths(resolve([*arguments(saving), *more], {}))
        return [one.settings.seeds for one in prepare.experiments(resolved)]

    save(saving, root, 1, 50)
    with pytest.raises(UserError, match=re.escape(line)):
        seeds(*more)
    assert seeds("NEXP=2", "SEEDS=7 8") == ["7", "8"]


# What is kept


@pytest.mark.parametrize(("keep", "left"), [(1, [40]), (2, [40, 30]), (0, [40, 30, 20, 10])])
def test_the_newest_stay(keep: int, left: list[int], saving: dict[str, str], root: Path) -> None:
    other_run = save({**saving, "SEEDS": "8"}, root, 1, 5)
    *_, newest = [save(saving, root, 1, step) for step in (10, 20, 30, 40)]
    removal.prune(root, SEED, keep, newest)
    assert [checkpoint.step for checkpoint in store.listing(root, SEED)] == left
    assert other_run.is_dir()


def test_prune_keeps_the_checkpoint_just_saved(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 2, 90)
    newest = save(saving, root, 1, 10)
    removal.prune(root, SEED, 1, newest)
    assert [checkpoint.path for checkpoint in store.listing(root, SEED)] == [newest]


# Room


def test_a_disk_that_is_too_small(saving: dict[str, str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(saving)
    data = validate.check(settings)
    needs = disk_space.estimate(settings, data)
    parameters = 238_144
    assert needs == pytest.approx(parameters * 14, abs=2_000_001)
    total = shutil.disk_usage(root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: total._replace(free=needs))
    disk_space.check(settings, data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: total._replace(free=needs - 1))
    line = r"CONTINUAL_CKPT=.*: the next checkpoint needs about 5\.334 MB, .*5\.334 MB free"
    with pytest.raises(UserError, match=line):
        disk_space.check(settings, data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: total._replace(free=2 * needs - 1))
    two = [*arguments(saving), "NEXP=2", "SEEDS=7 8"]
    with pytest.raises(UserError, match=r"the next checkpoints of 2 experiments need about 10\.67 MB, "):
        launch.run([*two, "--dryrun"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: total._replace(free=2 * needs))
    assert launch.run([*two, "--dryrun"]) == 0


def test_dry_run_of_several_experiments_of_which_one_has_ended(
    saving: dict[str, str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(saving, root, 1, 50)
    several = ["NEXP=3", "SEEDS=7 8 9", "STOP_AT_STEP=50", "PARTITION=p"]
    assert launch.run([*arguments(saving), *several, "--dryrun"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished: ") == 1 and "checkpoint-seed-7-" in printed.splitlines()[0]
    assert "  experiments: 2; seeds: 8, 9\n" in printed
    assert "\nexport SEEDS=8\n" in printed, "the script of the first one to be submitted"
    assert "SEEDS='7 8 9' " in printed, "what a user types"
    assert launch.run([*arguments(saving), "STOP_AT_STEP=50", "--dryrun"]) == TARGET_NOT_REACHED


def test_the_plan_says_where_it_starts(saving: dict[str, str], root: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(saving, root, 1, 10)
    left = shutil.copytree(path, path.with_name(store.name(SEED, 1, 20) + PARTIAL))
    assert launched(saving, "--dryrun", "SAVE_EVERY=5") == 0
    text = capsys.readouterr().out
    assert f"resumes after step 10 (80 sequences), from {path}" in text
    assert f"saves every 5 steps, at the end of the job, on SIGTERM and on SIGUSR1, to {root}: about 5.334 MB" in text
    assert left.exists(), "a dry run changes nothing"


def test_a_finished_run_ends_at_once(saving: dict[str, str], root: Path, capsys: pytest.CaptureFixture) -> None:
    save(saving, root, 1, 10, outcome=asdict(Outcome(SUCCESS, "reached", 0, 10, 80)))
    assert launched(saving) == 0
    assert "finished: reached, at step 10" in capsys.readouterr().out
    assert not (Path(saving["JOB_DIR"]) / "latest").exists()


def test_a_job_without_a_step_left_ends_at_once(
    saving: dict[str, str], root: Path, capsys: pytest.CaptureFixture
) -> None:
    save(saving, root, 1, 10)
    assert launched(saving, "STOP_AT_STEP=10") == TARGET_NOT_REACHED
    assert "did not reach TARGET=3.3 in STOP_AT_STEP=10 steps, at step 10; " in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--allow-change", "GBS"], ["--allow-change=GBS"]])
def test_allow_change(option: list[str], saving: dict[str, str], root: Path, capsys: pytest.CaptureFixture) -> None:
    given = {**saving, "WARMUP_STEPS": "5"}
    save(given, root, 1, 10)
    assert launched(given, "--dryrun", "GBS=16", *option) == 0
    text = capsys.readouterr().out
    assert "GBS=16: the run has GBS=8; changed by --allow-change GBS after step 10" in text
    assert "after 160 steps (2,480 of 2,480 sequences)" in text, "10 of 8 and 150 of 16"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (["--allow-change"], "--allow-change: name the setting that may change, for example --allow-change GBS"),
        (["--allow-change", "MBS"], "--allow-change MBS: not one of SEQ_LENGTH, GBS, "),
    ],
)
def test_allow_change_of_what_cannot_change(option: list[str], line: str, saving: dict[str, str]) -> None:
    with pytest.raises(UserError) as error:
        launched(saving, *option)
    assert error.value.lines[0].startswith(line)


def test_start_is_stored_for_the_ranks(tmp_path: Path) -> None:
    resumed = start_point.Start("/c", job=3, step=7, consumed_samples=56, departures=["x"])
    start_point.store(tmp_path / paths.START, resumed)
    assert start_point.load(tmp_path / paths.START) == resumed
    assert start_point.load(tmp_path / "nothing") == start_point.Start()
