"""`python3 -m llama31 status` of submitted runs: chains that wait, run, end or are killed, on a real Slurm."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import DEADLINE, Cluster
from status_rows import printed, row, write_run

from dev.support import benchmark_run
from llama31.config import paths
from llama31.launch.slurm import job_states
from llama31.run_dir import job_chain, record
from llama31.run_dir.events import ABORTED, INTERRUPTED, SUCCESS, Outcome
from llama31.run_dir.job_chain import Submission

# --- Submitted runs ---


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Submit a job that only sleeps; return its id. Cancel it at the end."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))
    submitted: list[int] = []

    def submit(command: str = "sleep 600", *options: str) -> int:
        argv = ["sbatch", "--parsable", "--partition=debug", "--output=/dev/null", *options, f"--wrap={command}"]
        submitted.append(int(cluster.ask(*argv)))
        return submitted[-1]

    yield submit
    cluster.ask("scancel", *map(str, submitted))


def submitted_run(run_dir: Path, jobs: list[int], destination: str = "") -> Path:
    """The directory of a submitted run, before its first job."""
    run_dir.mkdir()
    record.store_settings(run_dir, benchmark_run.SETTINGS)
    job_chain.store(run_dir, Submission(jobs, 1, destination, "2026-11-23T15:00:00+0000"))
    return run_dir


def job_began(run_dir: Path, job: int, evaluations: int, outcome: Outcome | None = None) -> None:
    """Write the files that a job leaves in the run's directory."""
    job_dir = write_run(run_dir / job_chain.job_dir_name(job, 0), evaluations)
    if outcome:
        record.store_outcome(job_dir, outcome)


def wait_until_it_is(state: str, job: int) -> None:
    end = time.monotonic() + DEADLINE
    while (now := job_states.states([job], "")[job].state) != state:
        assert time.monotonic() < end, f"job {job} is {now}"


@pytest.mark.slurm
def test_chain_from_submission_to_its_end(cluster: Cluster, submit: Callable[..., int], tmp_path: Path) -> None:
    first = submit("sleep 600", "--hold")
    second = submit("sleep 600", f"--dependency=afterany:{first}")
    third = submit("sleep 600", f"--dependency=afterany:{second}")
    run_dir = submitted_run(tmp_path / "run", [first, second, third])
    assert row(run_dir) == (f"job {first} PENDING (JobHeldUser), 1 of 3  queued", [])

    cluster.ask("scontrol", "release", str(first))
    wait_until_it_is("RUNNING", first)
    words, figures = row(run_dir)
    assert (words, figures) in [(f"job {first} RUNNING on {node}, 1 of 3  starting", []) for node in ("n1", "n2")]

    job_began(run_dir, first, evaluations=1)
    words, figures = row(run_dir)
    assert "1 of 3  running, last step 0:00:0" in words
    assert figures[0].startswith("384/")

    record.store_outcome(run_dir / f"job-{first}", Outcome(ABORTED, "saved", INTERRUPTED, 384, 12_288))
    cluster.ask("scontrol", "hold", str(second))
    cluster.ask("scancel", str(first))
    wait_until_it_is("CANCELLED", first)
    words, figures = row(run_dir)
    assert words.startswith(f"job {second} PENDING (")
    assert words.endswith(", 2 of 3  waiting for the next job; last one: interrupted: saved")
    assert figures[0].startswith("384/")

    cluster.ask("scontrol", "release", str(second))
    wait_until_it_is("RUNNING", second)
    (run_dir / job_chain.job_dir_name(second, 0)).mkdir()
    (run_dir / job_chain.job_dir_name(second, 0) / paths.SETTINGS).touch()
    words, figures = row(run_dir)
    assert words.endswith(", 2 of 3  starting")
    assert figures[0].startswith("384/"), "the second job has no steps yet, the run has"

    shutil.rmtree(run_dir / job_chain.job_dir_name(second, 0))
    job_began(run_dir, second, 2, Outcome(SUCCESS, "reached", 0, 768, 24_576))
    (run_dir / job_chain.job_dir_name(third, 0)).mkdir()  # that job finds nothing to do
    words, figures = row(run_dir)
    assert words.endswith("  target reached"), "regardless of the jobs after it"
    assert figures[0].startswith("768/")


@pytest.mark.slurm
def test_a_job_submitted_by_hand_is_part_of_the_chain(
    cluster: Cluster, submit: Callable[..., int], tmp_path: Path
) -> None:
    """As in docs/slurm.md: `sbatch job.sbatch` by hand, after a chain that has ended."""
    first = submit()
    run_dir = submitted_run(tmp_path / "run", [first])
    job_began(run_dir, first, 1, Outcome(ABORTED, "saved", INTERRUPTED, 384, 12_288))
    cluster.ask("scancel", str(first))
    wait_until_it_is("CANCELLED", first)
    assert row(run_dir)[0] == f"job {first} CANCELLED  interrupted: saved"

    again = submit()
    job_began(run_dir, again, 2)
    wait_until_it_is("RUNNING", again)
    words = row(run_dir)[0]
    assert words.startswith(f"job {again} RUNNING on ") and ", 2 of 2  running, last step " in words
    record.store_outcome(run_dir / f"job-{again}", Outcome(SUCCESS, "reached", 0, 768, 24_576))
    cluster.ask("scancel", str(again))
    assert row(run_dir)[0].endswith(", 2 of 2  target reached")


@pytest.mark.slurm
def test_chains_that_were_killed(cluster: Cluster, submit: Callable[..., int], tmp_path: Path) -> None:
    before, midway = submit("sleep 600", "--hold"), submit()
    mistaken = submit("exit 2")
    never = submitted_run(tmp_path / "never", [before])
    refused = submitted_run(tmp_path / "refused", [mistaken])
    killed = submitted_run(tmp_path / "killed", [midway])
    forgotten = submitted_run(tmp_path / "forgotten", [999_999])
    for run_dir, job in ((killed, midway), (forgotten, 999_999)):
        job_began(run_dir, job, 1)
    wait_until_it_is("RUNNING", midway)
    cluster.ask("scancel", str(before), str(midway))
    for job in (before, midway):
        wait_until_it_is("CANCELLED", job)
    wait_until_it_is("FAILED", mistaken)
    assert row(never)[0] == f"job {before} CANCELLED  never started: CANCELLED"
    assert row(refused)[0] == f"job {mistaken} FAILED  never started: FAILED", "Slurm could not even begin a log"
    (refused / paths.slurm_log(mistaken)).touch()
    assert row(refused)[0] == f"job {mistaken} FAILED  never started: FAILED; see slurm-{mistaken}.log"
    assert row(killed)[0] == f"job {midway} CANCELLED  killed: CANCELLED"
    assert row(forgotten)[0] == "job 999999 UNKNOWN  killed"


def test_slurm_that_cannot_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is there, with the outcomes, and a line below it says why states are missing."""
    monkeypatch.setenv("PATH", "/nonexistent")
    ended, other = submitted_run(tmp_path / "ended", [12]), submitted_run(tmp_path / "other", [13, 14])
    job_began(ended, 12, 1, Outcome(SUCCESS, "reached", 0, 384, 12_288))
    lines = printed(tmp_path)
    assert "ended  job 12  target reached" in lines
    assert "other  job 14, 2 of 2  no outcome yet; Slurm did not answer" in lines
    assert lines[-1].startswith("squeue: not found"), lines
    assert other.is_dir()
