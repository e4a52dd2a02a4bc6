"""What Slurm says of jobs (states.py), asked of a real Slurm. Takes 5 s."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import DEADLINE, Cluster

from llama31.errors import UserError
from llama31.slurm import states
from llama31.slurm.states import JobState

pytestmark = pytest.mark.slurm

NEVER_SUBMITTED = 999_999


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Submits a job that runs a shell command; gives its id."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))
    common = ("sbatch", "--parsable", "--partition=debug", f"--output={tmp_path}/%j.log")
    return lambda command, *options: int(cluster.ask(*common, *options, f"--wrap={command}"))


def when(job: int, holds: Callable[[JobState], bool]) -> JobState:
    """The job's state as soon as it is one that a test waits for."""
    end = time.monotonic() + DEADLINE
    while not holds(state := states.states([job], "")[job]):
        assert time.monotonic() < end, f"job {job} is {state}"
    return state


def test_one_job_of_each_kind(cluster: Cluster, submit: Callable[..., int]) -> None:
    runs = submit("sleep 600", "--nodes=2", "--time=30")
    waits = submit("true", f"--dependency=afterany:{runs}")
    succeeds, fails = submit("true"), submit("exit 3")
    try:
        for job in (succeeds, fails):
            cluster.ended(str(job))
        when(runs, lambda state: state.state == states.RUNNING)
        when(waits, lambda state: bool(state.reason))
        found = states.states([waits, runs, NEVER_SUBMITTED, fails, succeeds], "")
    finally:
        cluster.ask("scancel", str(runs), str(waits))
    assert list(found) == [waits, runs, NEVER_SUBMITTED, fails, succeeds]
    assert (found[waits].state, found[waits].reason) == (states.PENDING, "Dependency")
    assert (found[runs].state, found[runs].nodes) == (states.RUNNING, "n[1-2]")
    started, ends = (
        time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) for text in (found[runs].start, found[runs].end)
    )
    assert ends - started == 30 * 60, "the end of a running job is its time limit"
    assert (found[succeeds].state, found[succeeds].exit_code) == ("COMPLETED", 0)
    assert (found[fails].state, found[fails].exit_code) == ("FAILED", 3)
    assert found[NEVER_SUBMITTED] == JobState(), "a job that Slurm does not know among others that it does"
    assert [found[job].has_ended for job in (waits, runs, succeeds, fails)] == [False, False, True, True]
    assert when(runs, lambda state: state.has_ended).state == "CANCELLED"


def test_single_job_that_slurm_has_forgotten(cluster: Cluster, submit: Callable[..., int]) -> None:
    assert states.states([NEVER_SUBMITTED], "") == {NEVER_SUBMITTED: JobState(states.UNKNOWN)}
    assert JobState(states.UNKNOWN).has_ended


def test_requeued_job(cluster: Cluster, submit: Callable[..., int]) -> None:
    job = submit("sleep 600", "--requeue")
    when(job, lambda state: state.state == states.RUNNING)
    cluster.ask("scontrol", "requeue", str(job))
    try:
        requeued = when(job, lambda state: state.restarts == 1)
        assert not requeued.has_ended
        assert when(job, lambda state: state.state == states.PENDING).reason
    finally:
        cluster.ask("scancel", str(job))


def test_no_jobs_need_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert states.states([], "") == {}
    with pytest.raises(UserError, match="squeue: not found"):
        states.states([1], "")


def test_controller_that_does_not_answer(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (cluster.directory / "slurm.conf").read_text().splitlines()
    nobody_listens = ["SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in settings]
    (tmp_path / "slurm.conf").write_text("\n".join([*nobody_listens, "MessageTimeout=1", ""]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(UserError, match=r"^squeue fails: .*controller"):
        states.states([1], "")
