"""Several runs in one job, one after the other, on a real Slurm of two nodes (RUNS_PER_JOB)."""

from pathlib import Path
from typing import Any

import oracle
import pytest
from cluster import Cluster
from runs import CUT_RUN

from dev.support.submitted import submit
from llama31.config import paths
from llama31.mlperf.check import submission
from llama31.run_dir import job_chain, record
from llama31.run_dir.events import BAD_INPUT, INTERRUPTED
from llama31.status import status

pytestmark = pytest.mark.timeout(900)
ON_SLURM = {**CUT_RUN, "PARTITION": "debug", "TARGET": 100}
EACH_BUT_2 = "if [ $SEEDS = 2 ]; then echo seed 2; exit 1; fi; echo $SEEDS $SLURMD_NODENAME >>'{}'"


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_others(
    cluster: Cluster, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs over two nodes, with cleared caches before each, which fails before the second."""
    cleared = tmp_path / "cleared"
    asked: dict[str, Any] = {
        "NNODES": 2,
        "NEXP": 3,
        "RUNS_PER_JOB": 3,
        "SEEDS": "1 2 3",
        "EVAL_EVERY": 8,
        "JOB_DIR": tmp_path / "it's $HOME 100%j",
        "CLEAR_CACHES": 1,
        "CLEAR_CACHES_COMMAND": EACH_BUT_2.format(cleared),
    }
    runs = submit(cluster, {**tiny_data, **ON_SLURM, **asked})
    (job,) = {job for run in runs for job in run.jobs}
    places = [job_chain.load(run.run_dir) for run in runs]
    assert [(one.place, one.runs, one.seed) for one in places if one] == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]

    cluster.until("the first run starts", lambda: job_chain.has_started(runs[0].run_dir))
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))
    (row,) = status.collect([runs[2].run_dir])[0]
    assert "waiting for its turn, run 3 of 3 in the job" in row.text

    ended = [run.ended(job) for run in runs]
    assert [one.outcome.exit_code for one in ended] == [0, BAD_INPUT, 0], "".join(one.printed for one in ended)
    assert {one.exit_code for one in ended} == {BAD_INPUT}, "the worst one is the exit code of the job"
    assert "exit code 1: seed 2; set CLEAR_CACHES_COMMAND" in ended[1].printed
    assert sorted(cleared.read_text().splitlines()) == ["1 n1", "1 n2", "3 n1", "3 n2"]
    assert [record.load_settings(one.run_dir).seeds for one in ended] == ["1", "2", "3"]
    assert ended[0].losses() != ended[2].losses()
    for one in (ended[0], ended[2]):
        events = oracle.mlperf_events(one.run_dir / paths.MLPERF_LOG)
        assert [event["value"] for event in events if event["key"] == "cache_clear"] == [True]
        assert submission.check([one.run_dir], "6.1.0") == 0
    said = (runs[0].run_dir / paths.runs_log(job)).read_text().splitlines()
    wanted = [f"run {number} of 3: {run.run_dir}" for number, run in enumerate(runs, 1)]
    codes = [0, BAD_INPUT, 0]
    assert said == [line for one, code in zip(wanted, codes, strict=True) for line in (one, f"{one}: exit code {code}")]


@pytest.mark.slow
def test_a_chain_resumes_where_the_time_of_a_job_ended(
    cluster: Cluster, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    """The first of two runs is warned: it saves, and the second waits for the next job, which ends both."""
    asked: dict[str, Any] = {
        "NEXP": 2,
        "RUNS_PER_JOB": 2,
        "NPAR": 2,
        "SEEDS": "1 2",
        "EVAL_EVERY": 800,  # after 100 steps: the first run must not end before it is held
        "SAVE_CKPT": 1,
        "CONTINUAL_CKPT": tmp_path / "checkpoints",
        "JOB_DIR": tmp_path / "runs",
    }
    runs = submit(cluster, {**tiny_data, **ON_SLURM, **asked})
    assert runs[0].jobs == runs[1].jobs and len(runs[0].jobs) == 2
    first, second = runs[0].jobs
    with runs[0].held(runs[0].after_a_step(first).values()):
        cluster.ask("scancel", "--batch", "--signal=USR1", first)
        runs[0].warned(first)
    cut = runs[0].ended(first)
    assert cut.outcome.exit_code == cut.exit_code == INTERRUPTED, cut.printed
    assert "the checkpoint of this step is saved" in cut.printed
    said = (runs[0].run_dir / paths.runs_log(first)).read_text()
    assert f"run 2 of 2: {runs[1].run_dir}: not started, since the job is ending\n" in said
    assert not runs[1].job_dir(first).exists()

    rest = [run.ended(second) for run in runs]
    assert [one.outcome.exit_code for one in rest] == [0, 0], rest[0].printed + rest[1].printed
    assert f"resumes after step {cut.outcome.step} " in rest[0].printed
    assert runs[0].steps(second) == runs[1].steps(second) == list(range(1, 101))
