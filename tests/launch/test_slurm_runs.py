"""Runs on a real Slurm of two nodes, through run_llama31.sh, to every end that a job can have."""

import json
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import oracle
import pytest
from cluster import Cluster
from containers import containers
from cut_chain import SIGNAL_BEFORE_END, Chain
from light_imports import imported_by, is_light
from runs import CUT_RUN, REPOSITORY, Run, arguments, environment, run_llama31
from tiny import VOCABULARY, make_ids_beyond_the_vocabulary

from dev.support.submitted import submit
from llama31.config import paths
from llama31.mlperf.check import submission
from llama31.run_dir import job_chain, record
from llama31.run_dir.events import BAD_INPUT, FAILED, INTERRUPTED, TARGET_NOT_REACHED

pytestmark = pytest.mark.timeout(1800)  # the chain alone takes minutes, each time limit one
STEPS = 40
THREADS = {"OMP_NUM_THREADS": "1"}  # here and in the jobs, so that sums are the same to the bit
SETTINGS = {**CUT_RUN, "EVAL_EVERY": 64}  # every 8 steps
ODD = 'it\'s $HOME, 100%j "new"'
SLURM = {"PARTITION": "debug"}
TO_START = 240  # seconds for a rank that has started to import: it imports the rest, trains a step and saves
LAST_LINES = 12
"""Number of last lines of a job's log that show why it ended: srun's messages and the final lines."""
AT_ONCE = {"TARGET": 100}  # the first evaluation reaches it


@pytest.fixture(scope="module")
def settings(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of all runs; an unquoted directory would break a shell, sbatch or a format string."""
    return {**tiny_data, **SETTINGS, "JOB_DIR": tmp_path_factory.mktemp("cluster") / ODD}


def events(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Steps and evaluations in the metrics, except times, memory and values that depend on TARGET."""
    measured = {"seconds", "memory", "reached_target"}
    return {
        kind: [{name: value for name, value in event.items() if name not in measured} for event in run.events(kind)]
        for kind in ("step", "evaluation")
    }


# A chain of jobs of two nodes, data parallel, interrupted in all ways


@pytest.fixture(scope="module")
def uncut(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run by torchrun on one node, without interruption."""
    here = {**settings, "GPUS_PER_NODE": 2, "STOP_AT_STEP": STEPS, "JOB_DIR": tmp_path_factory.mktemp("here")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        run = run_llama31(here)
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    return run


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in an odd directory."""
    directory = tmp_path_factory.mktemp("code") / ODD
    shutil.copytree(REPOSITORY / "llama31", directory / "llama31", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_llama31.sh", "pretrain_llama31.py"):
        shutil.copy(REPOSITORY / name, directory)
    return directory


@pytest.fixture(scope="module")
def chain(
    cluster: Cluster, uncut: Run, code: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    """Slurm looks every 30 s, and so warns jobs 20 to 50 s before their limit."""
    *others, last = [event["loss"] for event in uncut.events("evaluation")]
    assert min(others) > last
    saving = {"SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path_factory.mktemp("checkpoints") / ODD}
    limits = {"NPAR": 3, "TIME": 10, "SIGNAL_BEFORE_END": SIGNAL_BEFORE_END, "MAX_RETRIES": 1}
    asked = {"NNODES": 2, "EXCLUSIVE": 0, "TAG": "it's", "SBATCH_ARGS": "--comment='$HOME % it' --job-name=mine"}
    of_run = {**settings, **SLURM, **saving, **limits, **asked, "TARGET": last}
    (run,) = submit(cluster, of_run, code=code, NCCL_DEBUG="INFO", **THREADS)
    return Chain(run)


@pytest.mark.slow
def test_jobs_that_are_cut_equal_one_that_is_not(chain: Chain, uncut: Run) -> None:
    """Bitwise equal, over two nodes: no step is lost or repeated."""
    assert (chain.state_of_last, chain.last.exit_code) == ("COMPLETED", 0), chain.last.printed + chain.last.logs()
    assert events(chain.last) == events(uncut)
    assert [event["step"] for event in chain.last.events("step")] == list(range(1, STEPS + 1))
    assert (chain.run.run_dir / paths.LATEST).resolve() == chain.last.run_dir


@pytest.mark.slow
def test_one_log_of_all_jobs_that_the_official_check_accepts(
    chain: Chain, uncut: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submission.check([chain.last.run_dir], "6.1.0") == 0, capsys.readouterr().out
    logged = oracle.mlperf_events(chain.last.run_dir / paths.MLPERF_LOG)
    evaluated = [event["metadata"]["samples_count"] for event in logged if event["key"] == "eval_accuracy"]
    assert evaluated == [event["consumed_samples"] for event in uncut.events("evaluation")]
    assert [event["key"] for event in logged].count("run_start") == 1


@pytest.mark.slow
def test_the_time_limit_ends_a_job_with_a_checkpoint(chain: Chain) -> None:
    steps = []
    for job, next_job in zip(chain.limited, [*chain.limited[1:], chain.cancelled], strict=True):
        assert job.exit_code == INTERRUPTED, job.printed + job.logs()
        step = job.outcome.step
        assert f"aborted: asked to end at step {step}; the checkpoint of this step is saved" in job.printed
        assert f"resumes after step {step} " in next_job.printed
        assert chain.run.steps(job.run_dir.name.removeprefix("job-")) == list(range(1, step + 1))
        steps.append(step)
    assert 0 < steps[0] < steps[1] < STEPS


@pytest.mark.slow
def test_two_jobs_never_work_in_one_run_directory(chain: Chain) -> None:
    assert chain.second.exit_code == BAD_INPUT
    working = chain.run.jobs[1]
    wanted = (
        f"{chain.run.run_dir}: job {working} works in it; wait for its end, or submit another run with run_llama31.sh\n"
    )
    assert chain.second.printed == wanted
    assert not chain.second.run_dir.exists()


@pytest.mark.slow
def test_a_cancelled_job_is_resumed(chain: Chain) -> None:
    assert chain.state_of_cancelled == "CANCELLED"
    assert re.search(r"resumes after step \d+ ", chain.retried[0].printed), chain.retried[0].printed


@pytest.mark.slow
def test_a_job_that_fails_or_loses_a_node_is_queued_again_and_not_for_ever(chain: Chain) -> None:
    job = chain.run.jobs[-3]
    first, second = chain.retried
    assert first.outcome.exit_code == FAILED
    assert f"job {job} failed and is queued again: 1 of 1\n" in first.printed
    assert chain.run.steps(job, restarts=1), "it trained again, until it lost a node"
    assert second.exit_code == BAD_INPUT
    assert second.printed.endswith(f"job {job} was queued again more than MAX_RETRIES=1 times\n")
    tried = first.printed.partition(f"job {job} failed and is queued again")[0].splitlines()
    assert any("task 1: Killed" in line for line in tried[-LAST_LINES:]), "the rank that was killed is named"


@pytest.mark.slow
def test_a_run_that_is_over_ends_at_once(chain: Chain) -> None:
    assert chain.finished.exit_code == 0
    assert "finished: validation loss" in chain.finished.printed and f", at step {STEPS};" in chain.finished.printed
    assert chain.run.steps(chain.run.jobs[-1]) == []


@pytest.mark.slow
def test_what_slurm_is_asked_for(chain: Chain) -> None:
    assert chain.asked_for["NumNodes"].startswith("2") and chain.asked_for["NumCPUs"] == "2"
    assert chain.asked_for["TimeLimit"] == "00:10:00" and chain.asked_for["Requeue"] == "1"
    assert chain.asked_for["Comment"] == "$HOME" and chain.asked_for["JobName"] == "mine", "SBATCH_ARGS wins"
    assert chain.shown["Dependency"] == f"afterany:{chain.run.jobs[0]}(unfulfilled)"
    assert chain.run.run_dir.name.startswith("it's-tiny-gbs8-seed1234-")


@pytest.mark.slow
def test_what_libraries_read_reaches_the_ranks(chain: Chain) -> None:
    for job in (chain.limited[0], chain.last):
        read = json.loads((job.run_dir / paths.RECORD).read_text())["environment"]
        assert (read["NCCL_DEBUG"], read["OMP_NUM_THREADS"]) == ("INFO", "1")


# Tensor parallel over two nodes, in a container


@pytest.fixture
def image(tmp_path: Path) -> dict[str, str]:
    """Environment of a submission to a cluster with pyxis and Apptainer, and an image that sets MAX_LR."""
    return {"PATH": containers(tmp_path / "bin"), "IMAGE_SETS": "MAX_LR=5", **THREADS}


@pytest.mark.slow
def test_tensor_parallel_over_two_nodes_in_a_container(
    cluster: Cluster, settings: dict[str, Any], image: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {**settings, **AT_ONCE, "TENSOR_PARALLEL_SIZE": 2, "JOB_DIR": tmp_path / "it's $HOME 100%"}
    (run,) = submit(cluster, {**plain, **SLURM, "NNODES": 2, "IMAGE": "a#b:1"}, **image)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    expected = run_llama31({**plain, "GPUS_PER_NODE": 2})
    job = run.ended(run.jobs[0])
    assert (cluster.state(run.jobs[0]), job.exit_code, expected.exit_code) == ("COMPLETED", 0, 0), job.printed
    assert events(job) == events(expected)
    assert submission.check([job.run_dir], "6.1.0") == 0
    assert (tmp_path / "bin" / "imported").read_text() == "a#b:1\n", "once for all steps of the job"
    assert not list((tmp_path / "bin").glob("pyxis_*")), "the container is removed"


@pytest.mark.slow
def test_two_experiments_side_by_side(
    cluster: Cluster, settings: dict[str, Any], image: dict[str, str], tmp_path: Path
) -> None:
    """In Apptainer, and not before the job that they depend on; the first is cut by its time limit, and resumes.

    Slurm's warning, which comes before it trains, reaches no process that mounts the image: the container would end
    with it.
    """
    first = cluster.ask("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true").strip()
    several = {"NEXP": 2, "SEEDS": "", "DEPENDENCIES": first, "IMAGE": "docker://a:1", "CONTAINER": "apptainer"}
    saving = {"NPAR": 2, "SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path / "checkpoints", "JOB_DIR": tmp_path / "my runs"}
    limits = {"TIME": 15, "SIGNAL_BEFORE_END": TO_START}
    runs = submit(cluster, {**settings, **AT_ONCE, **SLURM, **several, **saving, **limits}, **image)
    assert len(runs) == 2
    waiting = [cluster.shown(run.jobs[0]) for run in runs]
    assert {(job["JobState"], job["Dependency"]) for job in waiting} == {("PENDING", f"afterany:{first}(unfulfilled)")}
    cluster.ask("scontrol", "release", first)

    cluster.until("the rank starts", lambda: b"pretrain_llama31.py" in runs[0].command_of_rank_0(runs[0].jobs[0]))
    runs[0].limit(runs[0].jobs[0], TO_START)
    with runs[0].held(runs[0].ranks(runs[0].jobs[0]).values()):
        runs[0].warned(runs[0].jobs[0])
    jobs = [run.ended(run.jobs[0]) for run in runs]
    assert [job.exit_code for job in jobs] == [INTERRUPTED, 0], jobs[0].printed + jobs[1].printed
    assert jobs[0].outcome.reason == "asked to end at step 1; the checkpoint of this step is saved"
    rest = [run.ended(run.jobs[1]) for run in runs]
    assert [job.exit_code for job in rest] == [0, 0], rest[0].printed + rest[1].printed
    assert "resumes after step 1 " in rest[0].printed and "finished: validation loss" in rest[1].printed
    assert runs[0].steps(runs[0].jobs[1]) == list(range(1, 9)), "no step is done twice"

    shown = [cluster.shown(run.jobs[0]) for run in runs]
    assert {job["NodeList"] for job in shown} == {"n1", "n2"}
    assert max(job["StartTime"] for job in shown) < min(job["EndTime"] for job in shown), "both at the same time"
    seeds = [record.load_settings(job.run_dir).seeds for job in jobs]
    assert len(set(seeds)) == 2 and jobs[0].losses()[0] != jobs[1].losses()[0]
    for number, (seed, run, job) in enumerate(zip(seeds, runs, jobs, strict=True), start=1):
        assert f"experiment {number} of 2: seed {seed}, jobs {', '.join(run.jobs)}\n" in run.printed
        stored = job_chain.load(run.run_dir)
        assert stored and str(stored.seed) == seed == record.load_settings(run.run_dir).seeds
        assert record.load_settings(job.run_dir).max_lr == 1e-3, "the job's, not the image's"


@pytest.mark.parametrize(
    ("where", "hosts"), [("begin", {"n2"}), ("llama31.launch.slurm.rank", {"n1", "n2"})], ids=["first task", "ranks"]
)
def test_settings_that_arrive_otherwise(
    where: str, hosts: set[str], cluster: Cluster, settings: dict[str, Any], image: dict[str, str], tmp_path: Path
) -> None:
    """An image whose variables win: a line before anything heavy is imported."""
    asked = {"IMAGE": "a#b:1", "JOB_DIR": tmp_path, "NNODES": len(hosts), "MAX_RETRIES": 1}
    if len(hosts) == 1:
        asked["SBATCH_ARGS"] = "--nodelist=n2"
    (run,) = submit(cluster, {**settings, **SLURM, **asked}, **image, NOT_NAMED_FOR=where, PYTHONPROFILEIMPORTTIME="1")
    job = run.ended(run.jobs[0])
    assert job.exit_code == BAD_INPUT, job.printed
    imported = re.findall(r"^import time:.*\| +(\S+)$", job.printed, re.MULTILINE)
    assert "llama31.launch.slurm.env_check" in imported and is_light(imported)
    said = [line for line in job.printed.splitlines() if "MAX_LR" in line]
    assert len(said) == 1, "one line, for all ranks"
    wanted = r"(?:aborted: )?MAX_LR: is '5' on (\S+), but the job exported '0.001'; check what sets it .*"
    found = re.fullmatch(wanted, said[0])
    assert found and found[1] in hosts, said


# Failures


FAILS = """
import os
from llama31.training.benchmark_callback import BenchmarkCallback
def fail(self, *_):
    if self.step == 3:
        raise RuntimeError("CUDA error: an illegal memory access\\nmore of it")
if os.environ["RANK"] == "1":
    BenchmarkCallback.on_train_batch_start = fail
"""


@pytest.mark.slow
def test_an_error_of_one_rank_fails_the_job_and_is_in_its_last_lines(
    cluster: Cluster, code: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Only one rank fails: the other waits for it in the middle of a step, and loses the connection."""
    copy = tmp_path / "code"
    shutil.copytree(code, copy)
    program = copy / "pretrain_llama31.py"
    program.write_text(program.read_text().replace("\n\ndef main", f"\n{FAILS}\ndef main", 1))
    (run,) = submit(cluster, {**settings, **SLURM, "NNODES": 2}, code=copy, **THREADS)
    job = run.ended(run.jobs[0])
    assert (cluster.state(run.jobs[0]), job.exit_code) == ("FAILED", FAILED), job.printed + job.logs()
    last = "\n".join(job.printed.splitlines()[-5:])
    error = "aborted: rank 1 failed at step 3: RuntimeError: CUDA error: an illegal memory access; see "
    assert f"{error}{job.run_dir / paths.RANK_LOGS}\n" in last and "Traceback" not in job.printed


@pytest.mark.slow
def test_a_mistake_that_the_ranks_find_is_in_the_last_lines(
    cluster: Cluster, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Token ids beyond the vocabulary, deep in the data."""
    data = make_ids_beyond_the_vocabulary(tmp_path / "preprocessed")
    (run,) = submit(cluster, {**settings, **SLURM, **data, "NNODES": 2}, **THREADS)
    job = run.ended(run.jobs[0])
    assert (cluster.state(run.jobs[0]), job.exit_code) == ("FAILED", BAD_INPUT), job.printed + job.logs()
    last = "\n".join(job.printed.splitlines()[-5:])
    assert f"token id {VOCABULARY + 7}" in last and "Traceback" not in job.printed


# Submission


def cpu_seconds() -> float:
    """What processes that have ended used: unlike the time that has passed, it does not grow on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_submission_imports_nothing_heavy_and_takes_a_moment(
    cluster: Cluster, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))
    held = {**settings, **SLURM, "JOB_DIR": tmp_path, "SBATCH_ARGS": "--hold"}
    before = cpu_seconds()
    modules, code, said = imported_by("run", *arguments(held))
    assert (code, said) == (0, "") and is_light(modules)
    assert cpu_seconds() - before < 2
    (run_dir,) = tmp_path.glob("tiny-*")
    stored = job_chain.load(run_dir)
    assert stored
    cluster.ask("scancel", str(stored.jobs[0]))


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        ({"PARTITION": "gpu"}, "sbatch fails: invalid partition specified: gpu; Batch job submission failed"),
        ({"SBATCH_ARGS": "--nodelist=n7"}, "sbatch fails: Batch job submission failed: Invalid node name specified"),
        ({"SBATCH_ARGS": "--no-such"}, "sbatch fails: "),
        ({"TIME": "soon"}, "TIME=soon: not a time limit"),
        ({"PREPROCESSED_PATH": "/none"}, "PREPROCESSED_PATH=/none: "),
    ],
    ids=str,
)
def test_a_mistake_is_a_line_and_leaves_nothing(
    mistake: dict[str, Any], line: str, cluster: Cluster, settings: dict[str, Any], tmp_path: Path
) -> None:
    of_run = {**settings, **SLURM, "JOB_DIR": tmp_path / "runs", **mistake}
    before = cpu_seconds()
    done = cluster.run("bash", REPOSITORY / "run_llama31.sh", *arguments(of_run), env=environment())
    assert done.returncode == BAD_INPUT, done.stderr
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1, done.stderr
    assert cpu_seconds() - before < 1
    assert not list(tmp_path.glob("runs/*")), "a run directory is left"
