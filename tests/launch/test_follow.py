"""What --wait does (follow.py), with jobs of a real Slurm that print and end as a run's do. Takes 20 s."""

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cluster import Cluster
from runs import REPOSITORY

from llama31.config import paths
from llama31.launch.slurm import job_states
from llama31.launch.slurm.follow import follow
from llama31.run_dir import job_chain
from llama31.run_dir.events import BAD_INPUT, FAILED, INTERRUPTED, TARGET_NOT_REACHED
from llama31.run_dir.job_chain import Submission

pytestmark = pytest.mark.slurm

INTERVAL = 0.1  # seconds; a user's is longer

BEGINS = f"mkdir job-$SLURM_JOB_ID; touch job-$SLURM_JOB_ID/{paths.SETTINGS}"
"""Shell commands of a job whose ranks start."""

Submit = Callable[..., Path]


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Submit]:
    """Submits a run as a chain of jobs, each a shell script that runs in the run's directory. Cancels at the end."""
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))
    queued: list[int] = []

    def submit(*scripts: str, seed: int = 1, options: tuple[str, ...] = ()) -> Path:
        run_dir = tmp_path / f"a run of {seed}"
        run_dir.mkdir()
        jobs: list[int] = []
        for script in scripts:
            chained = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
            where = [f"--chdir={run_dir}", f"--output={run_dir}/{paths.slurm_log('%j')}"]
            argv = ["sbatch", "--parsable", "--partition=debug", *where, *chained, *options]
            jobs.append(int(cluster.ask(*argv, stdin=f"#!/bin/bash\n{script}\n")))
        queued.extend(jobs)
        job_chain.store(run_dir, Submission(jobs, seed, "", "2026-11-23T15:00:00+0000"))
        return run_dir

    yield submit
    cluster.ask("scancel", *map(str, queued))


def ends_with(code: int) -> str:
    """Shell commands that leave a run's outcome, and the exit code of it."""
    status = "aborted" if code else "success"
    outcome = f'{{"status": "{status}", "reason": "so", "exit_code": {code}, "step": 1, "consumed_samples": 8}}'
    return f"{BEGINS}; echo '{outcome}' >job-$SLURM_JOB_ID/{paths.OUTCOME}; exit {code}"


def submitted(run_dir: Path) -> Submission:
    found = job_chain.load(run_dir)
    assert found
    return found


def jobs_of(run_dir: Path) -> list[int]:
    return submitted(run_dir).jobs


def followed(*run_dirs: Path) -> tuple[int, list[str]]:
    """Exit code and printed lines."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = follow([(run_dir, submitted(run_dir)) for run_dir in run_dirs], INTERVAL)
    return code, out.getvalue().splitlines()


def test_chain_is_followed_to_its_end(submit: Submit) -> None:
    """Each job's log comes between the lines on its begin and its end, line by line, also what has no line's end."""
    run_dir = submit(
        f"echo first; sleep 0.5; printf 'half a '; sleep 0.5; echo line; {ends_with(INTERRUPTED)}",
        "echo 'é in job 2'; printf 'one\\r2\\fof one\\n'; sleep 0.5; echo to standard error >&2; printf 'no end'; "
        + ends_with(0),
    )
    first, second = jobs_of(run_dir)
    code, lines = followed(run_dir)
    assert code == 0, lines
    pending = [line for line in lines if "is pending" in line]
    assert f"job {second} is pending: Dependency" in pending
    assert len(pending) == len(set(pending)), "only changes are printed"
    others = [  # Slurm gives a job without a time limit one of a year in the instant of its start
        re.sub(r" on n[12](, until \S+ at most)?$", " on a node", line)
        for line in lines
        if line not in pending and "COMPLETING" not in line
    ]
    assert others == [
        f"job {first} runs on a node",
        "first",
        "half a line",
        f"job {first} ended: FAILED",
        *([f"job {second} runs on a node"] if f"job {second} runs on a node" in others else []),  # it is short
        "é in job 2",
        *"one\r2\fof one".splitlines(),
        "to standard error",
        "no end",
        f"job {second} ended: COMPLETED",
    ]


def test_worst_outcome_of_several_experiments(submit: Submit) -> None:
    runs = [
        submit(f"echo line of {seed}; {ends_with(code)}", seed=seed)
        for seed, code in ((7, 0), (8, TARGET_NOT_REACHED), (9, BAD_INPUT))
    ]
    code, lines = followed(*runs)
    assert code == BAD_INPUT
    for seed, run_dir in zip((7, 8, 9), runs, strict=True):
        assert f"seed {seed}: line of {seed}" in lines
        assert any(line.startswith(f"seed {seed}: job {jobs_of(run_dir)[0]} ended") for line in lines)
    assert followed(*runs[:2])[0] == TARGET_NOT_REACHED, "jobs that ended before are followed too"
    assert followed(runs[0])[0] == 0


def test_chain_whose_first_job_finished_the_run(submit: Submit) -> None:
    run_dir = submit(ends_with(0), "mkdir job-$SLURM_JOB_ID; exit 0")
    code, lines = followed(run_dir)
    assert code == 0
    assert lines[-1] == f"job {jobs_of(run_dir)[1]} ended: COMPLETED"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (f"{BEGINS}; exit 0", FAILED),  # killed before it could say how it ended
        ("mkdir job-$SLURM_JOB_ID; exit 2", BAD_INPUT),  # settings that did not arrive
        ("exit 77", FAILED),
        ("kill -9 $$", FAILED),
    ],
)
def test_job_without_an_outcome(script: str, code: int, submit: Submit) -> None:
    assert followed(submit(script))[0] == code


def test_job_that_is_cancelled_before_it_runs(cluster: Cluster, submit: Submit) -> None:
    run_dir = submit("true", options=("--hold",))
    (job,) = jobs_of(run_dir)
    cluster.ask("scancel", str(job))
    code, lines = followed(run_dir)
    assert (code, lines) == (FAILED, [f"job {job} ended: CANCELLED"])


FOLLOWS = """
import sys
from pathlib import Path
from llama31.run_dir import job_chain
from llama31.launch.slurm.follow import follow
run_dir = Path(sys.argv[1])
sys.exit(follow([(run_dir, job_chain.load(run_dir))], 0.1))
"""


def test_interrupt_stops_following_but_not_the_jobs(submit: Submit) -> None:
    run_dir = submit("echo started; sleep 600", "sleep 600")
    follower = subprocess.Popen(
        [sys.executable, "-c", FOLLOWS, run_dir], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    for line in follower.stdout:
        if line == "started\n":
            break
    follower.send_signal(signal.SIGINT)
    rest, _ = follower.communicate(timeout=60)
    assert follower.returncode == INTERRUPTED
    first, second = jobs_of(run_dir)
    assert f"scancel {first} {second}" in rest
    assert f"status '{run_dir}'" in rest
    found = job_states.states([first, second], "")
    assert [found[job].state for job in (first, second)] == [job_states.RUNNING, job_states.PENDING]


SSH = """#!/bin/bash
# The cluster sees the run's directory elsewhere. The first calls fail.
echo >>"$CALLS"
if (($(wc -l <"$CALLS") <= 3)); then echo 'Connection refused' >&2; exit 255; fi
command="${@: -1}"
# Scripts come on standard input.
exec bash -c "${command//"$HERE"/"$THERE"}" < <(sed "s|$HERE|$THERE|g")
"""


@pytest.fixture
def through_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[Path, Submission]]:
    """Where a run's directory is out of sight, and what was submitted there."""

    def afar(there: Path) -> tuple[Path, Submission]:
        here = tmp_path / "no such directory"
        (tmp_path / "bin").mkdir()
        (tmp_path / ".bash_profile").write_text(f"PATH={shlex.quote(os.environ['PATH'])}\n")  # of the cluster's Slurm
        (tmp_path / "bin" / "ssh").write_text(SSH)
        (tmp_path / "bin" / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        for name, value in (("HOME", tmp_path), ("CALLS", tmp_path / "calls"), ("HERE", here), ("THERE", there)):
            monkeypatch.setenv(name, str(value))
        return here, replace(submitted(there), destination="me@login")

    return afar


def test_through_ssh_where_the_log_is_out_of_sight(
    submit: Submit, through_ssh: Callable[[Path], tuple[Path, Submission]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that does not answer for a while is asked again, and reported once."""
    there = submit("echo from afar; exit 3")
    code = follow([through_ssh(there)], INTERVAL)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("HOST: ssh me@login fails: Connection refused;") for line in lines[:2]] == [True, False]
    assert lines[-2:] == ["from afar", f"job {jobs_of(there)[0]} ended: FAILED"]
    assert code == TARGET_NOT_REACHED


@pytest.mark.parametrize(("begins", "code"), [(ends_with(INTERRUPTED), INTERRUPTED), (f"{BEGINS}; exit 0", FAILED)])
def test_through_ssh_the_outcome_of_the_run_counts(
    begins: str, code: int, submit: Submit, through_ssh: Callable[[Path], tuple[Path, Submission]]
) -> None:
    """Not what Slurm says of its last job: accounting takes 130 for 2."""
    there = submit(begins, "exit 2")
    assert follow([through_ssh(there)], INTERVAL) == code
