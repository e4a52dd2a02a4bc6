"""The chain of Slurm jobs of a run (submission.json), and their job directories. Standard library only."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import read_json_if_present, write_json
from llama31.config import paths
from llama31.config.ssh_names import is_ssh_name

JOB_DIR_NAME = re.compile(r"job-(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Submission:
    """The contents of submission.json."""

    jobs: list[int]
    """Slurm's ids of its jobs, in the order in which they run."""
    seed: int
    destination: str
    """[user@]host through which it was submitted; empty: this machine."""
    submitted: str
    """Time of submission, ISO 8601 with the offset from UTC."""
    place: int = 1
    """Place among the runs that share its jobs."""
    runs: int = 1
    """Number of runs that share its jobs, one after the other."""


def store(run_dir: Path, submission: Submission) -> None:
    """Write or overwrite submission.json. Raises UserError if it cannot be written."""
    write_json(run_dir / paths.SUBMISSION, submission)


def load(run_dir: Path) -> Submission | None:
    """Read submission.json; None for a run that was not submitted. Raises UserError if it is damaged."""
    file = run_dir / paths.SUBMISSION
    submission = read_json_if_present(Submission, file)
    if submission and not (submission.jobs and all(type(job) is int and job > 0 for job in submission.jobs)):
        raise UserError(f"{file}: damaged (jobs={submission.jobs!r:.100})")
    if submission and submission.destination and not is_ssh_name(submission.destination):
        raise UserError(f"{file}: damaged (destination={submission.destination!r:.100})")
    return submission


def chain(run_dir: Path, submission: Submission) -> list[int]:
    """Return the ids of the run's jobs: the submitted chain, then jobs that were submitted by hand and have started."""
    return list(dict.fromkeys([*submission.jobs, *map(job_of, job_dirs(run_dir))]))


def run_dir_of(directory: Path) -> Path:
    """Return the run directory that a job directory is in; a run directory is returned as it is."""
    return directory.parent if JOB_DIR_NAME.fullmatch(directory.name) else directory


def job_dir_name(job_id: int, restarts: int) -> str:
    """Return the name of a job's directory in the run directory; each requeue gets its own."""
    return f"job-{job_id}-{restarts}" if restarts else f"job-{job_id}"


def job_of(job_dir: Path) -> int:
    """Return the id of the job that created a job directory."""
    return _numbers(job_dir)[0]


def has_started(run_dir: Path) -> bool:
    """Return whether a job has come to this run; it may have others to run first."""
    return (run_dir / ".job").exists()


def job_dirs(run_dir: Path) -> list[Path]:
    """Return the job directories of a run, ordered by job id and requeue. Raises UserError if it cannot be read."""
    with failures_named(run_dir):
        return in_order(run_dir.iterdir())


def in_order(directories: Iterable[Path]) -> list[Path]:
    """Return the job directories among `directories`, ordered by job id and requeue."""
    return sorted((path for path in directories if JOB_DIR_NAME.fullmatch(path.name)), key=_numbers)


def started_dirs(run_dir: Path) -> list[Path]:
    """Return those `job_dirs` whose job started ranks; one that finds its run finished, or an error, starts none."""
    return [job_dir for job_dir in job_dirs(run_dir) if (job_dir / paths.SETTINGS).exists()]


def _numbers(job_dir: Path) -> tuple[int, int]:
    """Return the job id and the number of requeues."""
    match = JOB_DIR_NAME.fullmatch(job_dir.name)
    assert match, job_dir
    return int(match[1]), int(match[2] or 0)
