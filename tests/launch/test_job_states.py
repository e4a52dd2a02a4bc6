"""Job states from Slurm (job_states.py): a real one, and recorded output of other versions. Takes 5 s."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import TESTS
from cluster import DEADLINE, Cluster

from llama31.common.errors import UserError
from llama31.launch.slurm import job_states
from llama31.launch.slurm.job_states import JobState

RECORDED = sorted(path for path in (TESTS / "slurm_outputs").iterdir() if path.is_dir())
"""Output of several Slurm versions, by slurm_outputs/record.sh."""
NEVER_SUBMITTED = 999_999


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Submit a job that runs a shell command; return its id."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))
    common = ("sbatch", "--parsable", "--partition=debug", f"--output={tmp_path}/%j.log")
    return lambda command, *options: int(cluster.ask(*common, *options, f"--wrap={command}"))


def when(job: int, holds: Callable[[JobState], bool]) -> JobState:
    """The job's state as soon as it is one that a test waits for."""
    end = time.monotonic() + DEADLINE
    while not holds(state := job_states.states([job], "")[job]):
        assert time.monotonic() < end, f"job {job} is {state}"
    return state


@pytest.mark.slurm
def test_one_job_of_each_kind(cluster: Cluster, submit: Callable[..., int]) -> None:
    runs = submit("sleep 600", "--nodes=2", "--time=30")
    waits = submit("true", f"--dependency=afterany:{runs}")
    succeeds, fails = submit("true"), submit("exit 3")
    try:
        for job in (succeeds, fails):
            cluster.ended(str(job))
        when(runs, lambda state: state.state == job_states.RUNNING)
        when(waits, lambda state: bool(state.reason))
        found = job_states.states([waits, runs, NEVER_SUBMITTED, fails, succeeds], "")
    finally:
        cluster.ask("scancel", str(runs), str(waits))
    assert list(found) == [waits, runs, NEVER_SUBMITTED, fails, succeeds]
    assert (found[waits].state, found[waits].reason) == (job_states.PENDING, "Dependency")
    assert (found[runs].state, found[runs].nodes) == (job_states.RUNNING, "n[1-2]")
    started, ends = (
        time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) for text in (found[runs].start, found[runs].end)
    )
    assert ends - started == 30 * 60, "the end of a running job is its time limit"
    assert (found[succeeds].state, found[succeeds].exit_code) == ("COMPLETED", 0)
    assert (found[fails].state, found[fails].exit_code) == ("FAILED", 3)
    assert found[NEVER_SUBMITTED] == JobState(), "a job that Slurm does not know among others that it does"
    assert [found[job].has_ended for job in (waits, runs, succeeds, fails)] == [False, False, True, True]
    assert when(runs, lambda state: state.has_ended).state == "CANCELLED"


@pytest.mark.slurm
def test_single_job_that_slurm_has_forgotten(cluster: Cluster, submit: Callable[..., int]) -> None:
    assert job_states.states([NEVER_SUBMITTED], "") == {NEVER_SUBMITTED: JobState(job_states.UNKNOWN)}
    assert JobState(job_states.UNKNOWN).has_ended


@pytest.mark.slurm
def test_requeued_job(cluster: Cluster, submit: Callable[..., int]) -> None:
    job = submit("sleep 600", "--requeue")
    when(job, lambda state: state.state == job_states.RUNNING)
    cluster.ask("scontrol", "requeue", str(job))
    try:
        requeued = when(job, lambda state: state.restarts == 1)
        assert not requeued.has_ended
        assert when(job, lambda state: state.state == job_states.PENDING).reason
    finally:
        cluster.ask("scancel", str(job))


def test_no_jobs_need_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert job_states.states([], "") == {}
    with pytest.raises(UserError, match="squeue: not found"):
        job_states.states([1], "")


@pytest.mark.slurm
def test_controller_that_does_not_answer(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (cluster.directory / "slurm.conf").read_text().splitlines()
    nobody_listens = ["SlurmctldPort=1" if line.startswith("SlurmctldPort=") else line for line in settings]
    (tmp_path / "slurm.conf").write_text("\n".join([*nobody_listens, "MessageTimeout=1", ""]))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    with pytest.raises(UserError, match=r"^squeue fails: .*controller"):
        job_states.states([1], "")


# --- What other versions say ---

KINDS = {
    "succeeds": ("COMPLETED", 0),
    "bad_input": ("FAILED", 2),
    "target_not_reached": ("FAILED", 3),
    "interrupted": ("FAILED", 130),
    "killed": ("FAILED", 137),
    "cancelled": ("CANCELLED", 0),
    "runs": (job_states.RUNNING, 0),
    "waits": (job_states.PENDING, 0),
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has commands of Slurm say what a file holds: their exit code in its first line, then what they print."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def commands(**files: Path) -> None:
        for name, file in files.items():
            program = tmp_path / "bin" / name
            program.write_text(
                f"#!/bin/sh\n{{ read -r code; [ $code = 0 ] || exec >&2; cat; exit $code; }} <'{file}'\n"
            )
            program.chmod(0o755)

    return commands


def jobs_in(version: Path) -> dict[str, int]:
    """Ids of the recorded jobs by their kinds."""
    return {kind: int(job) for job, kind in (line.split() for line in (version / "jobs").read_text().splitlines())}


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
def test_recorded_jobs(version: Path, slurm: Callable[..., None]) -> None:
    """Exit codes are wait()'s up to 22.05, and CODE:SIGNAL since 23.02."""
    slurm(squeue=version / "squeue")
    jobs = jobs_in(version)
    found = job_states.states(list(jobs.values()), "")
    assert {kind: (found[job].state, found[job].exit_code) for kind, job in jobs.items()} == KINDS
    assert (found[jobs["runs"]].nodes, found[jobs["waits"]].reason) == ("n[1-2]", "Dependency")
    assert [kind for kind, job in jobs.items() if not found[job].has_ended] == ["runs", "waits"]


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
def test_recorded_accounting(version: Path, slurm: Callable[..., None]) -> None:
    """Of jobs that squeue has forgotten. 24.11 says 2 for 130, and so of 2 nothing is known."""
    slurm(squeue=version / "squeue_two_unknown", sacct=version / "sacct")
    jobs = jobs_in(version)
    found = job_states.states(list(jobs.values()), "")
    if "disabled" in (version / "sacct").read_text():
        assert set(found.values()) == {JobState()}
        return
    assert {kind: found[job].state for kind, job in jobs.items()} == {kind: state for kind, (state, _) in KINDS.items()}
    codes = {kind: found[job].exit_code for kind, job in jobs.items() if found[job].has_ended}
    assert codes.pop("bad_input") is None and codes.pop("interrupted") in (None, 130)
    assert codes == {"succeeds": 0, "target_not_reached": 3, "killed": 137, "cancelled": 0}


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("answer", "jobs"), [("squeue_unknown", [NEVER_SUBMITTED]), ("squeue_two_unknown", [NEVER_SUBMITTED - 1, 999_999])]
)
def test_recorded_jobs_that_slurm_does_not_know(
    version: Path, answer: str, jobs: list[int], slurm: Callable[..., None]
) -> None:
    """Of one squeue fails; of several it says nothing."""
    slurm(squeue=version / answer, sacct=version / "squeue_two_unknown")
    assert job_states.states(jobs, "") == {job: JobState(job_states.UNKNOWN) for job in jobs}


@pytest.mark.parametrize("version", RECORDED, ids=lambda path: path.name)
def test_recorded_jobs_among_unknown_ones(version: Path, slurm: Callable[..., None]) -> None:
    slurm(squeue=version / "squeue_known_and_unknown", sacct=version / "squeue_two_unknown")
    known = jobs_in(version)["succeeds"]
    found = job_states.states([known, NEVER_SUBMITTED], "")
    assert (found[known].state, found[NEVER_SUBMITTED].state) == ("COMPLETED", job_states.UNKNOWN)


@pytest.mark.parametrize("exit_code", ["", "N/A", "0:0:0", "1:", "soon", "-1"])
def test_what_no_version_says_is_unknown(exit_code: str, tmp_path: Path, slurm: Callable[..., None]) -> None:
    """A site's own messages around it are ignored."""
    lines = ["0", "squeue is slow | today", "7|RUNNING|n1|soon|later|many|" + exit_code + "|None|", "7|x", "|", ""]
    (tmp_path / "said").write_text("\n".join(lines))
    slurm(squeue=tmp_path / "said")
    assert job_states.states([7], "") == {7: JobState(job_states.RUNNING, "n1", "soon", "later", exit_code=None)}
