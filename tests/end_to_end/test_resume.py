"""Runs in several jobs equal an uninterrupted one: bitwise on the same ranks, closely on others; with one log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle
import pytest
import weights_and_biases
from noting_samples import NAME
from runs import CUT_RUN, SUPPORT, Run, run_forked
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dev.support.tensors import common, different, tensors
from llama31.checkpoint import store
from llama31.checkpoint.formats import nemo
from llama31.config import paths
from llama31.mlperf.check import submission
from llama31.run_dir import record
from llama31.run_dir.events import TARGET_NOT_REACHED

pytestmark = pytest.mark.slow

STEPS = 20
CUTS = (7, 8)  # 7 + 1 + 12 steps
SETTINGS = {**CUT_RUN, "EVAL_EVERY": 32, "SAVE_CKPT": 1}  # evaluates every 4 steps: at 8, where a job ends, too


@dataclass
class Chain:
    """The jobs of one run, and the directory of its checkpoints."""

    jobs: list[Run]
    checkpoints: Path

    @property
    def last(self) -> Path:
        """Its newest checkpoint."""
        return store.listing(self.checkpoints)[0].path

    def samples(self, rank: int) -> list[str]:
        """The training sequences that a rank read in all jobs."""
        files = (job.run_dir / NAME.format(rank) for job in self.jobs)
        return [line for file in files for line in file.read_text().splitlines()]


def run(settings: dict[str, Any], *options: str) -> Run:
    """A job that also notes the training sequences that it reads."""
    return run_forked(settings, *options, script=SUPPORT / "noting_samples.py")


@pytest.fixture(scope="module")
def settings(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**tiny_data, **SETTINGS, "JOB_DIR": tmp_path_factory.mktemp("my runs")}


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def ranks(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def in_one_go(ranks: int, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root = tmp_path_factory.mktemp("in one go")
    job = run({**settings, "GPUS_PER_NODE": ranks, "CONTINUAL_CKPT": root, "STOP_AT_STEP": STEPS})
    assert job.exit_code == TARGET_NOT_REACHED, job.printed + job.logs()
    return Chain([job], root)


@pytest.fixture(scope="module")
def target(in_one_go: Chain) -> float:
    """The last validation loss, which is the lowest."""
    *others, last = [event["loss"] for event in in_one_go.jobs[0].events("evaluation")]
    assert min(others) > last
    return float(last)


@pytest.fixture(scope="module")
def in_three_jobs(
    ranks: int, target: float, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    """The last job saves every 5 steps, and ends at the target.

    Recomputation, overlap and saving in the background are free: they change.
    """
    chain = Chain([], tmp_path_factory.mktemp("in three jobs"))
    these = {**settings, "GPUS_PER_NODE": ranks, "CONTINUAL_CKPT": chain.checkpoints, "TARGET": target, "KEEP_LAST": 0}
    overlap = {"OVERLAP_GRAD_REDUCE": 1} if ranks > 1 else {}
    jobs = (
        {"STOP_AT_STEP": CUTS[0], "SAVE_ASYNC": 1},
        {"STOP_AT_STEP": CUTS[1], "RECOMPUTE_GRANULARITY": "full"},
        {"SAVE_EVERY": 5, "SAVE_ASYNC": 1, **overlap},
    )
    for settings_of_job in jobs:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WANDB_MODE", "offline")
            chain.jobs.append(run({**these, "WANDB": 1, **settings_of_job}))
        assert "Traceback" not in chain.jobs[-1].printed, chain.jobs[-1].printed + chain.jobs[-1].logs()
    assert [job.exit_code for job in chain.jobs] == [TARGET_NOT_REACHED, TARGET_NOT_REACHED, 0]
    return chain


def test_loggers_count_steps_as_metrics_and_mlperf_log(in_three_jobs: Chain) -> None:
    """TensorBoard, Weights & Biases, metrics and the MLPerf log, in each job of the chain."""
    began = 0
    for job in in_three_jobs.jobs:
        trained = {event["step"]: event["loss"] for event in job.events("step") if event["step"] > began}
        evaluated = {event["step"]: event["loss"] for event in job.events("evaluation") if event["step"] > began}
        began = max(trained)
        # The loggers' val_loss is the mean of whole batches, with what follows EVAL_SAMPLES in the last of them.
        expected = {
            "reduced_train_loss": (trained, 1e-6),
            "val_loss": (evaluated, 1e-2),
            "global_step": ({step: step for step in trained}, 0),
        }
        tensorboard = EventAccumulator(str(job.run_dir / paths.TENSORBOARD)).Reload()
        rows = weights_and_biases.history(job.run_dir)
        for name, (values, tolerance) in expected.items():
            found = {event.step: event.value for event in tensorboard.Scalars(name)}
            assert found == pytest.approx(values, rel=tolerance), f"TensorBoard's {name}"
            found = {int(row["trainer/global_step"]): float(row[name]) for row in rows if name in row}
            assert found == pytest.approx(values, rel=tolerance), f"{name} of Weights & Biases"
    events = oracle.mlperf_events(in_three_jobs.jobs[-1].run_dir / paths.MLPERF_LOG)
    placed = [event["metadata"] for event in events if event["key"] == "tracked_stats"]
    assert {metadata["step"] for metadata in placed} == {4, 8, 12, 16, 20}
    assert all(metadata["samples_count"] == metadata["step"] * 8 for metadata in placed)


def test_a_chain_is_one_run_of_weights_and_biases(in_three_jobs: Chain) -> None:
    name = in_three_jobs.jobs[0].run_dir.name
    for job in in_three_jobs.jobs:
        described = weights_and_biases.described(job.run_dir)
        assert (described.run_id, described.display_name) == (name, name), "named after the run, and resumed by its id"


def test_three_jobs_equal_one(ranks: int, in_one_go: Chain, in_three_jobs: Chain) -> None:
    reference, last = in_one_go.jobs[0], in_three_jobs.jobs[-1]
    for kind, measured in (("step", {"seconds"}), ("evaluation", {"seconds", "reached_target", "memory"})):
        ours, theirs = (
            [{name: value for name, value in event.items() if name not in measured} for event in job.events(kind)]
            for job in (last, reference)
        )
        assert ours == theirs
    assert [event["step"] for event in last.events("evaluation")] == [4, 8, 12, 16, 20]
    for rank in range(ranks):
        assert len(in_one_go.samples(rank)) == STEPS * 8 // ranks
        assert in_three_jobs.samples(rank) == in_one_go.samples(rank)
    differ = different(tensors(in_three_jobs.last), tensors(in_one_go.last))
    assert not differ, f"weights or moments that differ: {differ}"


def test_three_jobs_leave_the_same_state(in_one_go: Chain, in_three_jobs: Chain) -> None:
    """The states of schedule, data and random generators after the last step."""
    ours, theirs = common(in_three_jobs.last), common(in_one_go.last)
    for part in ("lr_schedulers", "callbacks.RandomStates", "BenchmarkData.consumed_samples", "global_step"):
        names = [name for name in theirs if name.startswith(part)]
        assert names, f"{part} is not in {sorted(theirs)}"
        differ = [name for name in names if name in different(ours, theirs)]
        assert not differ, differ


def test_each_job_says_where_it_starts(in_three_jobs: Chain) -> None:
    first, second, third = in_three_jobs.jobs
    assert "starts from random weights" in first.printed
    assert f"resumes after step 7 (56 sequences), from {in_three_jobs.checkpoints}" in second.printed
    assert "resumes after step 8" in third.printed and "checkpoint-seed-1234-par-2-8-steps" in third.printed


def test_checkpoints_and_what_they_hold(in_three_jobs: Chain) -> None:
    names = {checkpoint.path.name for checkpoint in store.listing(in_three_jobs.checkpoints)}
    saved = ((1, 7), (2, 8), (3, 10), (3, 15), (3, 20))
    assert names == {f"checkpoint-seed-1234-par-{job}-{step}-steps" for job, step in saved}
    visible = {path.name for path in in_three_jobs.checkpoints.iterdir() if not path.name.startswith(".")}
    assert visible == names, "nothing else is left"
    assert {path.name for path in in_three_jobs.last.iterdir()} == {
        nemo.WEIGHTS, nemo.CONTEXT, store.MANIFEST, paths.MLPERF_LOG, paths.METRICS,
    }  # fmt: skip
    assert {"io.json", "model.yaml"} <= {path.name for path in (in_three_jobs.last / nemo.CONTEXT).iterdir()}


def test_three_jobs_write_one_log_that_holds(in_three_jobs: Chain, capsys: pytest.CaptureFixture) -> None:
    first, _, last = in_three_jobs.jobs
    assert submission.check([last.run_dir], "6.1.0") == 0, capsys.readouterr().out
    events = oracle.mlperf_events(last.run_dir / paths.MLPERF_LOG)
    times = [event["time_ms"] for event in events]
    assert times == sorted(times)
    begin = next(
        event for event in oracle.mlperf_events(first.run_dir / paths.MLPERF_LOG) if event["key"] == "run_start"
    )
    end = events[-1]
    assert (end["key"], end["metadata"]["status"]) == ("run_stop", "success")
    assert begin in events, "the run starts when its first job does"
    assert float(end["metadata"]["duration"].split()[0]) == pytest.approx(
        (end["time_ms"] - begin["time_ms"]) / 1000, abs=1
    )
    resumed = [event["metadata"]["samples_count"] for event in events if event["key"] == "run_resumed"]
    assert resumed == [56, 64]


def test_a_run_that_is_over_ends_at_once(ranks: int, settings: dict[str, Any], in_three_jobs: Chain) -> None:
    target = record.load_settings(in_three_jobs.jobs[-1].run_dir).target
    these = {**settings, "GPUS_PER_NODE": ranks, "CONTINUAL_CKPT": in_three_jobs.checkpoints, "TARGET": target}
    before = sorted(Path(settings["JOB_DIR"]).iterdir())
    again = run({name: value for name, value in these.items() if name != "SEEDS"})
    assert again.exit_code == 0, again.printed
    assert "finished: validation loss" in again.printed and ", at step 20;" in again.printed
    assert sorted(Path(settings["JOB_DIR"]).iterdir()) == before, "no run directory is made"


@pytest.mark.parametrize("ranks", [1], ids=["one rank"], indirect=True, scope="module")
def test_changed_learning_rate(settings: dict[str, Any], in_three_jobs: Chain, tmp_path: Path) -> None:
    """The step after the change has the new schedule's rate: of 9 warmup steps, step 8 uses 8 / 10 of MAX_LR."""
    target = record.load_settings(in_three_jobs.jobs[0].run_dir).target
    checkpoint = in_three_jobs.checkpoints / store.name(1234, 1, CUTS[0])
    chosen = {"MODEL_CKPT": checkpoint, "USE_CKPT": 1, "CONTINUAL_CKPT": tmp_path, "TARGET": target}
    allowed = ("--allow-change=MAX_LR", "--allow-change=MIN_LR")
    job = run({**settings, **chosen, "MAX_LR": 5e-3, "STOP_AT_STEP": CUTS[1]}, *allowed)
    assert job.exit_code == TARGET_NOT_REACHED, job.printed
    rates = [event["learning_rate"] for event in job.events("step")]
    assert rates[-1] == pytest.approx(4e-3), job.printed + job.logs()
    assert rates[:-1] == [event["learning_rate"] for event in in_three_jobs.jobs[0].events("step")]


# Layouts

PIPELINE = {"GPUS_PER_NODE": 2, "PIPELINE_PARALLEL_SIZE": 2}
TENSOR = {"GPUS_PER_NODE": 2, "TENSOR_PARALLEL_SIZE": 2}
DATA = {"GPUS_PER_NODE": 2}
LAYOUTS = {1: [PIPELINE], 2: [TENSOR, DATA]}
"""Ranks that saved the first checkpoint -> the layouts of the jobs that resume, each from the one before."""


def test_another_layout_follows_the_same_course(
    ranks: int, settings: dict[str, Any], in_one_go: Chain, in_three_jobs: Chain, tmp_path: Path
) -> None:
    target = record.load_settings(in_three_jobs.jobs[0].run_dir).target
    checkpoint = in_three_jobs.checkpoints / store.name(1234, 1, CUTS[0])
    expected = in_one_go.jobs[0]
    for number, layout in enumerate(LAYOUTS[ranks]):
        root, end = tmp_path / str(number), 10 + 2 * number
        chosen = {"MODEL_CKPT": checkpoint, "USE_CKPT": 1, "CONTINUAL_CKPT": root, "TARGET": target}
        job = run({**settings, **layout, **chosen, "STOP_AT_STEP": end})
        assert job.losses() == pytest.approx(expected.losses()[:end], rel=1e-5), job.printed + job.logs()
        evaluations = [[event["loss"] for event in each.events("evaluation")] for each in (job, expected)]
        assert evaluations[0] == pytest.approx(evaluations[1][: end // 4], rel=1e-5)
        checkpoint = store.listing(root)[0].path
