"""Each setting does what its docstring, which is config.sh's comment, says: every setting is tested.

A setting of the recipe has a row in IN_THE_RECIPE of tests/support/setting_effects.py, one that only the MLPerf log
names has one in IN_THE_LOG, one that Slurm sees has one in IN_A_SUBMISSION. Any other has a test named test_<field>
here.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import simulated_training
import torch
from checkpoints import save, settings_of
from lightning.pytorch import Callback
from one_rank import one_rank
from recipes import differing, flat, recipe
from runs import SUPPORT, Run, arguments, run_forked
from setting_effects import CLOSED, GONE, IN_A_SUBMISSION, IN_THE_LOG, IN_THE_RECIPE

from dev.support import benchmark_run
from llama31 import train
from llama31.checkpoint import resume, store
from llama31.cli import launch
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.config.resolve import Resolved
from llama31.launch import local
from llama31.launch.slurm import submit
from llama31.model import device, numa
from llama31.plan import validate
from llama31.plan.plan import Plan
from llama31.run_dir import cache_log, hang, record
from llama31.run_dir.events import SUCCESS
from llama31.run_dir.start_point import Start
from llama31.settings import (
    Device,
    Profiler,
    RecomputeGranularity,
    RecomputeMethod,
    Settings,
    documentation,
    names,
)
from llama31.training import benchmark_callback, checkpoint_saver, diagnosis
from llama31.training.checkpoint_saver import Saver


def logged(file: Path) -> dict[str, Any]:
    """Key -> value of an MLPerf log's events."""
    return {event["key"]: event["value"] for event in oracle.mlperf_events(file)}


def own_tests() -> set[str]:
    """Fields with a test of their name here."""
    return {field.name for field in fields(Settings) if f"test_{field.name}" in globals()}


def test_every_setting_is_shown_to_act() -> None:
    for name, text in documentation().items():
        assert name in {*IN_THE_RECIPE, *IN_THE_LOG, *IN_A_SUBMISSION} | own_tests(), (
            f"{name.upper()}: nothing here shows that it does what it says, {text!r}; add a row to IN_THE_RECIPE, "
            f"IN_THE_LOG or IN_A_SUBMISSION, or a function test_{name} that looks where the setting acts"
        )
    stale = {*IN_THE_RECIPE, *IN_THE_LOG, *IN_A_SUBMISSION} - documentation().keys()
    assert not stale, f"no such settings: {stale}"


@pytest.mark.parametrize("name", IN_THE_RECIPE)
def test_a_setting_changes_in_the_recipe_what_it_should_and_no_more(name: str) -> None:
    acts = IN_THE_RECIPE[name]
    usual = Settings(**acts.besides)
    before, after = flat(recipe(usual)), flat(recipe(replace(usual, **{name: acts.value})))
    assert {path: after.get(path, GONE) for path in differing(before, after)} == acts.changes


@pytest.mark.parametrize("name", IN_THE_LOG)
def test_a_setting_is_in_the_mlperf_log(name: str, tmp_path: Path) -> None:
    value, key, expected = IN_THE_LOG[name]
    assert value != getattr(Settings(), name)
    benchmark_run.open_log(tmp_path / "log", replace(CLOSED, **{name: value}))
    assert logged(tmp_path / "log")[key] == expected


def preview(**settings: Any) -> str:
    """Script and commands of a submission; tests/launch/test_slurm_script.py checks their full text."""
    submitted = Settings(**{"partition": "debug", **settings})
    plan = Plan(Resolved(submitted, dict.fromkeys(documentation(), "default")), None, [])
    return submit.preview([plan], Path("/runs/one"), [])


@pytest.mark.parametrize("name", IN_A_SUBMISSION)
def test_a_setting_is_seen_in_a_submission(name: str) -> None:
    value, besides, seen = IN_A_SUBMISSION[name]
    assert value != getattr(Settings(), name)
    assert seen in preview(**besides, **{name: value}) and seen not in preview(**besides)


# Where it runs


@pytest.fixture
def launched(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Start a run as a user does, with ranks that end at once, and return its directory."""
    monkeypatch.setattr(local, "command", lambda *_: ["true"])
    for name in names():
        monkeypatch.delenv(name, raising=False)

    def start(**settings: Any) -> Path:
        given = {**usual, **settings}
        launch.run(arguments(given))
        return (Path(given["JOB_DIR"]) / "latest").resolve()

    return start


def test_gpus_per_node() -> None:
    ranks = local.command(Settings(gpus_per_node=4), Path("/run"))
    assert "--nproc-per-node=4" in ranks


def test_job_dir(launched: Callable[..., Path], tmp_path: Path) -> None:
    run_dir = launched(JOB_DIR=tmp_path / "elsewhere")
    assert run_dir.parent == tmp_path / "elsewhere"
    assert record.load_settings(run_dir).job_dir == str(run_dir.parent)
    assert paths.index_root(record.load_settings(run_dir)) == run_dir.parent / "index"


@pytest.mark.parametrize(
    ("asked", "has_cuda", "taken"),
    [("auto", True, "gpu"), ("auto", False, "cpu"), ("cuda", True, "gpu"), ("cpu", True, "cpu")],
)
def test_device(asked: str, has_cuda: bool, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    settings = Settings(device=Device(asked))
    assert recipe(settings, device.detect(settings)).trainer.accelerator == taken


def test_gpu(benchmark_data: dict[str, str]) -> None:
    large = settings_of(benchmark_data, "DEVICE=cuda", "MBS=8")
    assert validate.look(large)[1] == [], "memory is not checked"
    (line,) = validate.look(replace(large, gpu="H100"))[1]
    assert line.startswith("GPU=H100: 80 GB, but each would need about ")


def test_clear_caches(launched: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """tests/launch/test_caches.py compares the MLPerf log."""
    run_dir = launched(CLEAR_CACHES=1, CLEAR_CACHES_COMMAND="true")
    assert cache_log.were_cleared(run_dir, record.load_settings(run_dir))
    assert f"{cache_log.CLEARED}" in capsys.readouterr().out
    without = launched(CLEAR_CACHES=0)
    assert not cache_log.were_cleared(without, record.load_settings(without))


def test_clear_caches_command(launched: Callable[..., Path], tmp_path: Path) -> None:
    launched(CLEAR_CACHES=1, CLEAR_CACHES_COMMAND=f"touch '{tmp_path}/cleared'")
    assert (tmp_path / "cleared").exists()


def test_numa_binding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a rank does anything else; tests/model/test_numa.py shows what it does."""
    bound: list[int] = []
    monkeypatch.setattr(numa, "bind", bound.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    for binds in (False, True):
        record.store_settings(tmp_path, Settings(numa_binding=binds))
        with pytest.raises(UserError, match=paths.RECORD):
            train._Run(tmp_path, 11, sys.stdout).fit()
        assert bound == [3] * binds


def test_nexp(launched: Callable[..., Path]) -> None:
    last = launched(NEXP=2, SEEDS="3")
    made = [record.load_settings(path) for path in last.parent.glob("tiny-*")]
    assert len(made) == len({settings.seeds for settings in made}) == 2 and "3" in {one.seeds for one in made}


# Evaluation and ends


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., simulated_training.SimulatedRun]]:
    """Follows the benchmark to its end, with settings other than CLOSED's."""
    with one_rank():
        yield lambda losses, **more: simulated_training.train(tmp_path, replace(CLOSED, **more), losses)


def test_start_eval_at(follow: Callable[..., simulated_training.SimulatedRun]) -> None:
    found = follow([3.4, 3.2], start_eval_at=30_000).evaluations
    assert [evaluation.consumed_samples for evaluation in found] == [36_864, 49_152]


def test_target(follow: Callable[..., simulated_training.SimulatedRun]) -> None:
    ended = follow([3.4, 3.1, 2.9], target=3.0).outcome
    assert (ended.status, ended.exit_code, ended.consumed_samples) == (SUCCESS, 0, 3 * 12_288)


def test_stop_at_step(follow: Callable[..., simulated_training.SimulatedRun]) -> None:
    ran = follow([], stop_at_step=9)
    assert [step.step for step in ran.steps] == list(range(1, 10))
    without = replace(CLOSED, stop_at_step=None)
    assert Start().last_step(without, 16_031) == (500, "the 16031 sequences of training data")


def test_step_time_atol(
    follow: Callable[..., simulated_training.SimulatedRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(benchmark_callback.time, "perf_counter", lambda: next(clock))
    assert follow([], step_time_atol=1000, stop_at_step=9).outcome.step == 9, "steps of 1,000 ms are tolerated"
    ended = follow([], step_time_atol=999, stop_at_step=9).outcome
    assert ended.reason == "step 4 took 1000 ms; STEP_TIME_ATOL=999 tolerates 999"


@pytest.mark.slow
def test_hang_minutes(usual: dict[str, str]) -> None:
    """What a run that hangs does: tests/end_to_end/test_hang.py."""
    run = run_forked({**usual, "HANG_MINUTES": 1, "STOP_AT_STEP": 2}, script=SUPPORT / "hanging_rank.py")
    assert len(run.losses()) == 2 and not hang.standings(run.run_dir), "a run that makes steps does not end by it"


# Memory and speed


def test_recompute_method() -> None:
    full = replace(Settings(), recompute_granularity=RecomputeGranularity.full)
    before, after = flat(recipe(full)), flat(recipe(replace(full, recompute_method=RecomputeMethod.block)))
    assert differing(before, after) == {"model.config.recompute_method"}
    assert after["model.config.recompute_method"] == "block"


def test_recompute_num_layers() -> None:
    full = replace(Settings(), recompute_granularity=RecomputeGranularity.full)
    before, after = flat(recipe(full)), flat(recipe(replace(full, recompute_num_layers=2)))
    assert differing(before, after) == {"model.config.recompute_num_layers"}
    assert after["model.config.recompute_num_layers"] == 2


# Checkpoints and jobs


@pytest.fixture
def saving(usual: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return {**usual, "SAVE_CKPT": "1", "CONTINUAL_CKPT": str(tmp_path / "chain"), "SEEDS": "7"}


def start_of(given: dict[str, Any], *more: str) -> Start:
    settings = settings_of(given, *more)
    return resume.find(settings, validate.check(settings), thorough=True).start


def test_use_ckpt(saving: dict[str, str], tmp_path: Path) -> None:
    chosen = save(saving, tmp_path / "elsewhere", 1, 50)
    given = {**saving, "MODEL_CKPT": str(chosen)}
    assert start_of(given, "USE_CKPT=1").step == 50
    newer = save(saving, tmp_path / "chain", 2, 60)
    assert start_of(given, "USE_CKPT=1").checkpoint == str(newer), "CONTINUAL_CKPT holds one of this run"


@pytest.mark.slow
def test_from_hf(trained: tuple[Run, Path], settings_of_trained: dict[str, Any]) -> None:
    path = trained[1]
    given = {**settings_of_trained, "MODEL_CKPT": path}
    assert start_of(given, "FROM_HF=1") == Start(str(path), weights_only=True)
    assert start_of(given, "USE_CKPT=1").step == 8, "otherwise it would resume after its last step"


def test_model_ckpt(usual: dict[str, str], tmp_path: Path) -> None:
    for step in (10, 20):
        path = save({**usual, "SEEDS": "1"}, tmp_path, 1, step)
        assert start_of(usual, f"MODEL_CKPT={path}", "USE_CKPT=1").checkpoint == str(path)


@pytest.mark.slow
def test_save_ckpt(trained: tuple[Run, Path], settings_of_trained: dict[str, Any]) -> None:
    checkpoint = trained[1]
    given = {**settings_of_trained, "CONTINUAL_CKPT": checkpoint.parent}
    start = start_of(given, "SAVE_CKPT=1")
    assert (start.checkpoint, start.job, start.step) == (str(checkpoint), 2, 8)


@pytest.mark.slow
def test_continual_ckpt(trained: tuple[Run, Path]) -> None:
    run, checkpoint = trained
    directory = Path(record.load_settings(run.run_dir).continual_ckpt)
    assert checkpoint.parent == directory
    assert {Path(event["path"]).parent for event in run.events("checkpoint")} == {directory}


def due(monkeypatch: pytest.MonkeyPatch, seconds_of_step: float = 1, **settings: Any) -> list[int]:
    """Steps of nine after which a job saves; the last is the job's last."""
    now = 0.0
    monkeypatch.setattr(checkpoint_saver.time, "monotonic", lambda: now)
    its = Saver(replace(CLOSED, save_ckpt=True, **settings), job=1, identity={}, departures=[], run_dir=Path())
    found = []
    with one_rank():
        for step in range(1, 10):
            now += seconds_of_step
            if its.is_due(step, is_last=step == 9):
                found.append(step)
                its._saved_at = now
    return found


def test_save_every(monkeypatch: pytest.MonkeyPatch) -> None:
    assert due(monkeypatch, save_every=4) == [4, 8, 9]
    assert due(monkeypatch) == [9], "0 saves only at the end of a job"


def test_save_every_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert due(monkeypatch, seconds_of_step=30, save_every_minutes=2.0) == [4, 8, 9]


@pytest.mark.slow
def test_save_async(trained: tuple[Run, Path], settings_of_trained: dict[str, Any], tmp_path: Path) -> None:
    """Training continues before a checkpoint is complete."""
    given = {**settings_of_trained, "SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path, "SAVE_EVERY": 2, "SAVE_ASYNC": 1}
    run = run_forked({**given, "STOP_AT_STEP": 3})
    first, _ = run.events("checkpoint")
    assert first["step"] == 2
    assert first["blocked"] < first["seconds"]


@pytest.mark.slow
def test_keep_last(trained: tuple[Run, Path]) -> None:
    """The run saved after each of its 8 steps."""
    run, checkpoint = trained
    assert record.load_settings(run.run_dir).keep_last == 3
    assert [kept.step for kept in store.listing(checkpoint.parent)] == [8, 7, 6]


def test_start_steps(saving: dict[str, str], tmp_path: Path) -> None:
    path = save(saving, tmp_path / "elsewhere", 1, 10)
    chosen = (f"MODEL_CKPT={path}", "USE_CKPT=1")
    assert start_of(saving, *chosen, "START_STEPS=10").step == 10
    with pytest.raises(UserError, match=r"^START_STEPS=9: the checkpoint is of step 10"):
        start_of(saving, *chosen, "START_STEPS=9")
    settings = settings_of(saving, "START_STEPS=10")
    opened = train._Run(tmp_path, 0, sys.stdout)
    opened._open_log(settings, validate.check(settings_of(saving)), [])
    assert logged(tmp_path / paths.MLPERF_LOG)["init_checkpoint_step"] == 10


def test_seeds(launched: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert record.load_settings(launched(SEEDS=1234)).seeds == "1234"
    drawn = {record.load_settings(launched(SEEDS="")).seeds for _ in range(2)}
    assert len(drawn) == 2
    printed = capsys.readouterr().out
    assert all(f"seed {seed}\n" in printed for seed in ("1234", *drawn))
    before, after = (flat(recipe(Settings(), seed=seed)) for seed in (1, 2))
    assert differing(before, after) == {"data.seed", "trainer.callbacks[0].seed"}, "the data's order, and the weights"


def test_tag(launched: Callable[..., Path]) -> None:
    assert launched(TAG="first try").name.startswith("first try-tiny-gbs8-")


# Diagnosis; traces of real ranks: tests/training/test_profiler.py, test_memory_snapshot.py, tests/launch/test_nsys.py


def profiled(rank: int = 0, **settings: Any) -> Callback:
    """The callback that profiles a rank."""
    (found,) = diagnosis.callbacks(Settings(**{"profile": Profiler.torch, **settings}), Path("/run"), rank)
    return found


def test_profile() -> None:
    assert diagnosis.callbacks(Settings(), Path("/run"), 0) == [], "on a machine without a GPU"
    assert profiled().by_torch and not profiled(profile=Profiler.nsys).by_torch


def test_profile_step_start() -> None:
    assert profiled(profile_step_start=3).first == 3


def test_profile_step_end() -> None:
    assert profiled(profile_step_end=20).last == 20


def test_profile_ranks() -> None:
    assert profiled(rank=5, profile_ranks="0 5").trace.name == "rank-5.json.gz"
    assert diagnosis.callbacks(Settings(profile=Profiler.torch, profile_ranks="0 5"), Path("/run"), 1) == []


def test_memory_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(diagnosis, "MemorySnapshots", lambda *_, records: records)
    assert diagnosis.callbacks(Settings(memory_snapshot=True), Path("/run"), 0) == [True]
    assert diagnosis.callbacks(Settings(), Path("/run"), 0) == [False], "only when memory runs out"
