"""Which checkpoint a job starts from, what it refuses, and what is kept: on the files alone, without training."""

import errno
import io
import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from checkpoints import DATA_FILE, save, settings_of
from runs import arguments
from saved_tokenizers import change_ids, save_again

from llama31.checkpoint import disk_space, identity, removal, resume, store
from llama31.cli import launch
from llama31.common import reading
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, sha256_of
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.launch import prepare
from llama31.plan import validate
from llama31.run_dir import start_point
from llama31.run_dir.events import SUCCESS, TARGET_NOT_REACHED, Outcome

SEED = 7


def find(given: dict[str, str], *more: str, allowed: tuple[str, ...] = ()) -> resume.Found:
    settings = settings_of(given, *more)
    return resume.find(settings, validate.check(settings), allowed, thorough=True)


def refused(given: dict[str, str], *more: str, allowed: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(UserError) as error:
        find(given, *more, allowed=allowed)
    for line in error.value.lines:
        assert "\n" not in line
    return error.value.lines


# The choice


def test_nothing_there_is_a_first_job(saving: dict[str, str], usual: dict[str, str]) -> None:
    assert find(saving).start == find(usual).start == start_point.Start()


def test_the_newest_of_the_chain(saving: dict[str, str], root: Path) -> None:
    """A later job is newer, also where it began again from an earlier step."""
    for job, step in ((1, 100), (1, 20), (2, 30)):
        save(saving, root, job, step)
    assert find(saving).start == start_point.Start(
        str(root / store.name(SEED, 2, 30)), job=3, step=30, consumed_samples=240
    )


def test_other_seeds_are_other_runs(saving: dict[str, str], root: Path) -> None:
    save({**saving, "SEEDS": "8"}, root, 1, 100)
    assert find(saving).start == start_point.Start()
    mine = save(saving, root, 1, 10)
    assert find(saving).start.checkpoint == str(mine)
    without_seed = {name: value for name, value in saving.items() if name != "SEEDS"}
    (line,) = refused(without_seed)
    assert "SEEDS is empty" in line and "7, 8" in line and "SEEDS=7 works" in line


def test_a_seed_left_open_is_the_runs(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    found = find({name: value for name, value in saving.items() if name != "SEEDS"})
    assert (found.settings.seeds, found.start.step) == (str(SEED), 10)


def test_layout_micro_batches_recomputation_and_overlap_are_free(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    more = ("GPUS_PER_NODE=4", "TENSOR_PARALLEL_SIZE=2", "PIPELINE_PARALLEL_SIZE=2", "MBS=2", "STOP_AT_STEP=3")
    assert find(saving, *more).start.step == 10
    more = ("GPUS_PER_NODE=2", "OVERLAP_GRAD_REDUCE=1", "RECOMPUTE_GRANULARITY=full", "RECOMPUTE_NUM_LAYERS=2")
    assert find(saving, *more).start.step == 10


def test_model_ckpt_starts_the_first_job_alone(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    path = save(saving, tmp_path / "elsewhere", 3, 50)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert find(saving, *chosen).start == start_point.Start(str(path), job=4, step=50, consumed_samples=400)
    newer = save(saving, root, 4, 60)
    assert find(saving, *chosen).start.checkpoint == str(newer)


def test_an_older_choice_than_the_newest_is_refused(saving: dict[str, str], root: Path) -> None:
    older, newer = save(saving, root, 1, 10), save(saving, root, 1, 20)
    (line,) = refused(saving, f"MODEL_CKPT={older}", "USE_CKPT=1")
    assert line.startswith(f"MODEL_CKPT={older}: ") and newer.name in line


def test_a_finished_run(saving: dict[str, str], root: Path) -> None:
    outcome = Outcome(SUCCESS, "reached", 0, 10, 80)
    save(saving, root, 1, 10, outcome=asdict(outcome))
    assert find(saving).outcome == outcome


def test_a_finished_run_cannot_change(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10, outcome=asdict(Outcome(SUCCESS, "reached", 0, 10, 80)))
    (line,) = refused(saving, "TARGET=2.5", allowed=("target",))
    assert line.startswith("--allow-change: the run is finished")


def test_weights_that_a_run_did_not_begin_with(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    save(saving, root, 1, 10)
    (line,) = refused(saving, f"MODEL_CKPT={tmp_path}", "FROM_HF=1")
    assert line.startswith("FROM_HF=1: the run has FROM_HF=0, which cannot change")


# Damage


def damage_size(path: Path) -> None:
    (path / DATA_FILE).write_bytes(b"x")


def damage_content(path: Path) -> None:
    content = bytearray((path / DATA_FILE).read_bytes())
    content[1000] ^= 1
    (path / DATA_FILE).write_bytes(content)


def damage_file(path: Path) -> None:
    (path / DATA_FILE).unlink()


def damage_manifest(path: Path) -> None:
    (path / store.MANIFEST).write_text("{")


def no_manifest(path: Path) -> None:
    (path / store.MANIFEST).unlink()


DAMAGES = [damage_size, damage_content, damage_file, damage_manifest, no_manifest]


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    harm: Callable[[Path], None], saving: dict[str, str], root: Path
) -> None:
    good, damaged = save(saving, root, 1, 10), save(saving, root, 1, 20)
    harm(damaged)
    found = find(saving)
    assert found.start.checkpoint == str(good)
    (note,) = found.notes
    assert str(damaged) in note and note.endswith("passed over")
    (said,) = found.clear()
    assert str(damaged) in said and damaged.with_name(damaged.name + store.DAMAGED).is_dir()
    assert find(saving).notes == []


def test_damage_to_the_one_that_is_named(saving: dict[str, str], root: Path) -> None:
    """MODEL_CKPT names the newest, which is damaged: the one before it is taken, and that is said."""
    good, damaged = save(saving, root, 1, 10), save(saving, root, 1, 20)
    damage_content(damaged)
    found = find(saving, f"MODEL_CKPT={damaged}", "USE_CKPT=1")
    assert found.start.checkpoint == str(good)
    assert len(found.notes) == 1


def test_damaged_again(saving: dict[str, str], root: Path) -> None:
    """The same step was saved again, and is damaged again."""
    save(saving, root, 1, 10)
    for number in range(2):
        damaged = save(saving, root, 1, 20)
        damage_content(damaged)
        list(find(saving).clear())
        assert len(list(root.glob(f"*{store.DAMAGED}*"))) == number + 1
    assert find(saving).start.step == 10


@pytest.mark.parametrize("field", ["identity", "outcome", "step", "departures", "files"])
def test_manifest_of_other_types(field: str, saving: dict[str, str], root: Path) -> None:
    good, damaged = save(saving, root, 1, 10), save(saving, root, 1, 20)
    file = damaged / store.MANIFEST
    for value in (3.5, "x"):
        file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
        assert find(saving).start.checkpoint == str(good)


def test_checkpoint_that_may_not_be_read(saving: dict[str, str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights, or a file server that is away, are no damage: nothing is renamed, and no work is done again."""
    save(saving, root, 1, 10)
    save(saving, root, 1, 20)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", "the file")

    monkeypatch.setattr(store, "digest", forbidden)
    assert refused(saving) == ["the file: Permission denied"]


@pytest.mark.parametrize("harm", DAMAGES)
def test_no_good_checkpoint_is_no_fresh_start(harm: Callable[[Path], None], saving: dict[str, str], root: Path) -> None:
    harm(save(saving, root, 1, 10))
    *_, line = refused(saving)
    assert line == f"CONTINUAL_CKPT={root}: no good checkpoint is left; name another"


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_choice_is_refused(harm: Callable[[Path], None], usual: dict[str, str], root: Path) -> None:
    path = save({**usual, "SEEDS": "1"}, root, 1, 10)
    harm(path)
    (line,) = refused(usual, f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert line.startswith(f"MODEL_CKPT={path}")


def test_what_a_killed_save_left_is_named_and_removed(saving: dict[str, str], root: Path) -> None:
    good = save(saving, root, 1, 10)
    left = shutil.copytree(good, good.with_name(store.name(SEED, 1, 20) + PARTIAL))
    others = shutil.copytree(good, good.with_name(store.name(8, 1, 20) + PARTIAL))
    found = find(saving)
    assert found.start.checkpoint == str(good)
    assert list(found.clear()) == [f"{left}: removed, a save that was killed"]
    assert not left.exists() and others.exists(), "another run's save may be going on"


def test_a_first_save_that_was_killed(saving: dict[str, str], root: Path) -> None:
    """Without a seed given, the run is the one that had begun to save."""
    path = save(saving, root, 1, 10)
    left = path.rename(path.with_name(path.name + PARTIAL))
    found = find({name: value for name, value in saving.items() if name != "SEEDS"})
    assert (found.start, found.settings.seeds, found.incomplete) == (start_point.Start(), str(SEED), [left])


# What must stay the same


@pytest.mark.parametrize(
    "change",
    ["GBS=16", "MAX_LR=1e-3", "MIN_LR=1e-6", "WARMUP_STEPS=3", "MAX_STEPS=99999", "SAMPLES_AVAILABLE=800",
     "SEQ_LENGTH=16", "TARGET=4", "EVAL_EVERY=999", "EVAL_SAMPLES=8", "START_EVAL_AT=64", "TRAIN_PARTS=6"],
)  # fmt: skip
def test_another_setting_than_the_runs(change: str, saving: dict[str, str], root: Path) -> None:
    given = {**saving, "WARMUP_STEPS": "5", "MIN_LR": "1e-5"}
    save(given, root, 1, 10)
    name = change.partition("=")[0]
    lines = refused(given, change)
    line = next(line for line in lines if line.startswith(f"{name}="))
    assert f"the run has {name}=" in line and f"--allow-change {name} goes on all the same" in line
    allowed = {name, "PREPROCESSED_PATH"} if name == "TRAIN_PARTS" else {name}  # other files, too
    found = find(given, change, allowed=tuple(identity.names_allowed(allowed)))
    assert found.start.step == 10
    assert f"changed by --allow-change {name} after step 10" in found.start.departures[0]


def test_another_seed_than_the_checkpoints(usual: dict[str, str], root: Path) -> None:
    path = save({**usual, "SEEDS": "1"}, root, 1, 10)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    (line,) = refused(usual, *chosen, "SEEDS=2")
    assert line.startswith("SEEDS=2: the run has SEEDS=1;")
    assert find(usual, *chosen, "SEEDS=2", allowed=("seeds",)).settings.seeds == "2"
    assert find(usual, *chosen).settings.seeds == "1"


@pytest.mark.parametrize("change", ["SIZE=demo", "PRECISION=fp32", "DECAY_NORMS=1"])
def test_another_model_cannot_be_allowed(change: str, saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    name = change.partition("=")[0]
    assert refused(saving, change)[0].startswith(f"{change}: the run has {name}=")
    with pytest.raises(UserError, match=f"--allow-change {name}: not one of "):
        identity.names_allowed([name])


def test_a_checkpoint_that_does_not_say_whether_norms_decay(saving: dict[str, str], root: Path) -> None:
    """Those of older versions: norms did not."""
    file = save(saving, root, 1, 10) / store.MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["identity"]["decay_norms"]
    file.write_text(json.dumps(manifest))
    assert find(saving).start.step == 10
    (line,) = refused(saving, "DECAY_NORMS=1")
    assert line.startswith("DECAY_NORMS=1: the run has DECAY_NORMS=0, which cannot change")


def test_another_tokenizer(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    save(saving, root, 1, 10)
    other = Path(shutil.copytree(saving["TOKENIZER_PATH"], tmp_path / "other tokenizer"))
    assert find(saving, f"TOKENIZER_PATH={other}").start.step == 10, "the same one elsewhere"
    assert find(saving, f"TOKENIZER_PATH={save_again(other)}").start.step == 10, "the same ids"
    change_ids(other)
    (line,) = refused(saving, f"TOKENIZER_PATH={other}")
    assert line.startswith("TOKENIZER_PATH: not the tokenizer that the run began with")


def test_a_checkpoint_with_the_hash_of_the_tokenizers_file(saving: dict[str, str], root: Path) -> None:
    """As they were written before: it is of the file as it was."""
    settings = settings_of(saving)
    tokenizer = Path(settings.tokenizer_path) / "tokenizer.json"
    was = {**identity.identity(settings, validate.check(settings)), "tokenizer_path": sha256_of(tokenizer)}
    save(saving, root, 1, 10, identity=was)
    assert find(saving).start.step == 10


def test_other_data(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    save(saving, root, 1, 10)
    other = Path(shutil.copytree(saving["PREPROCESSED_PATH"], tmp_path / "other data"))
    assert find(saving, f"PREPROCESSED_PATH={other}").start.step == 10, "the same data elsewhere"
    for extension in (".bin", ".idx"):
        shutil.copy(next(other.glob(f"*en_6*{extension}")), next(other.glob(f"*en_7*{extension}")))
    (line,) = refused(saving, f"PREPROCESSED_PATH={other}")
    assert line.startswith("PREPROCESSED_PATH: c4-train.en_7_text_document: not the data that the run began with")


def test_start_steps_must_be_the_checkpoints(saving: dict[str, str], root: Path) -> None:
    path = save(saving, root, 1, 10)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert find(saving, *chosen, "START_STEPS=10").start.step == 10
    assert refused(saving, *chosen, "START_STEPS=9") == [f"START_STEPS=9: the checkpoint is of step 10 ({path})"]


def test_departures_of_earlier_jobs_stay(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10, departures=["FROM_HF=1: the closed division starts from random weights"])
    assert find(saving).start.departures == ["FROM_HF=1: the closed division starts from random weights"]


# Weights alone; see test_weights_only.py


def test_the_second_job_of_a_run_from_weights(saving: dict[str, str], root: Path, tmp_path: Path) -> None:
    from_weights = {**saving, "MODEL_CKPT": str(tmp_path), "FROM_HF": "1"}
    newer = save(from_weights, root, 1, 10)
    assert find(from_weights).start.checkpoint == str(newer)


def test_a_converted_checkpoint_has_no_run_to_go_on_with(usual: dict[str, str], tmp_path: Path) -> None:
    (line,) = refused(usual, f"MODEL_CKPT={tmp_path}", "USE_CKPT=1")
    assert line.startswith(f"MODEL_CKPT={tmp_path}: ") and "FROM_HF=1 takes the weights alone" in line


# Two at once


def test_a_run_that_goes_on_elsewhere(saving: dict[str, str], root: Path) -> None:
    save(saving, root, 1, 10)
    with store.lock(root, SEED), pytest.raises(UserError, match=r"seed 7 .* another job"):
        launched(saving)
    store.lock(root, SEED).close()


def test_a_lock_is_waited_for(root: Path) -> None:
    """As that of a node which was lost is, until its file server forgets it."""
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
            "on login are not looked at here; SEEDS='1'",
        ),
    ],
)
def test_which_runs_go_on_is_never_guessed(saving: dict[str, str], root: Path, more: list[str], line: str) -> None:
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


def test_the_one_just_saved_stays_whatever_the_names_say(saving: dict[str, str], root: Path) -> None:
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
    with pytest.raises(UserError, match=r"CONTINUAL_CKPT=.*: the next checkpoint takes about 5\.3 MB, .*5\.3 MB free"):
        disk_space.check(settings, data)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: total._replace(free=2 * needs - 1))
    two = [*arguments(saving), "NEXP=2", "SEEDS=7 8"]
    with pytest.raises(UserError, match=r"the next checkpoints of 2 experiments take about 10\.7 MB, "):
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


# The command line


def launched(given: dict[str, str], *more: str) -> int:
    return launch.run([*arguments(given), *more])


def test_the_plan_says_where_it_starts(saving: dict[str, str], root: Path, capsys: pytest.CaptureFixture) -> None:
    path = save(saving, root, 1, 10)
    left = shutil.copytree(path, path.with_name(store.name(SEED, 1, 20) + PARTIAL))
    assert launched(saving, "--dryrun", "SAVE_EVERY=5") == 0
    text = capsys.readouterr().out
    assert f"goes on after step 10 (80 sequences), from {path}" in text
    assert f"saves every 5 steps, at the end of the job, on SIGTERM and on SIGUSR1, to {root}: about 5.3 MB" in text
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
        (["--allow-change"], "--allow-change: name the setting that may change, such as --allow-change GBS"),
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


class Terminal(io.StringIO):
    """A terminal to write to."""

    def isatty(self) -> bool:
        return True


def test_progress_of_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 2.0, 2.1, 3.0, 3.1))
    monkeypatch.setattr(reading.time, "monotonic", lambda: next(clock))
    with reading.Reading("verifying x", 4_000_000_000, terminal := Terminal()) as read:
        read.add(1_000_000_000)
        read.add(1)  # too soon for another line
    shown, end = terminal.getvalue().split("\r\x1b[K")[1:]
    assert (shown, end) == ("verifying x: 1.0 GB of 4.0 GB, 500.0 MB/s, 0:06 left", "")
    with reading.Reading("verifying x", 4, quiet := io.StringIO()) as read:
        read.add(4)
    assert quiet.getvalue() == ""
