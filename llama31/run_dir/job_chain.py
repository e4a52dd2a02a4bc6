"""What was submitted to Slurm for a run: its chain of jobs, and the directories that these make. Standard library."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import atomic_writer, failures_named
from llama31.common.json_files import read_json
from llama31.config import paths

JOB_DIR_NAME = re.compile(r"job-(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Submission:
    """One run, as it was submitted."""

    jobs: list[int]
    """Slurm's ids of its jobs, in the order in which they run."""
    seed: int
    destination: str
    """[user@]host that took it through ssh; empty: Slurm's tools of this machine did."""
    submitted: str
    """Time of it, ISO 8601 with the offset from UTC."""


def store(run_dir: Path, submission: Submission) -> None:
    """Writes down what was submitted; takes the place of what was written before. Raises UserError where it cannot."""
    with atomic_writer(run_dir / paths.SUBMISSION) as file:
        file.write(text(submission).encode())


def text(submission: Submission) -> str:
    """What `store` writes."""
    return json.dumps(asdict(submission), indent=2) + "\n"


def load(run_dir: Path) -> Submission | None:
    """What `store` wrote; None for a run that was not submitted. Raises UserError where it is damaged."""
    file = run_dir / paths.SUBMISSION
    if not file.exists():
        return None
    submission = read_json(Submission, file)
    if not all(isinstance(job, int) for job in submission.jobs):
        raise UserError(f"{file}: damaged (jobs={submission.jobs})")
    return submission


def chain(run_dir: Path, submission: Submission) -> list[int]:
    """Ids of the run's jobs: those that were submitted with it, then those that began later, submitted by hand.

    Raises UserError where the run's directory cannot be read.
    """
    return list(dict.fromkeys([*submission.jobs, *map(job_of, job_dirs(run_dir))]))


def run_name(run_dir: Path) -> str:
    """Name of the run that has its files in a directory: on Slurm each job has one of its own, within the run's."""
    return (run_dir.parent if JOB_DIR_NAME.fullmatch(run_dir.name) else run_dir).name


def job_dir_name(job_id: int, restarts: int) -> str:
    """Name of the directory that a job makes in its run's; it makes a new one each time that it is requeued."""
    return f"job-{job_id}-{restarts}" if restarts else f"job-{job_id}"


def job_of(job_dir: Path) -> int:
    """Id of the job that made a directory."""
    return _numbers(job_dir)[0]


def job_dirs(run_dir: Path) -> list[Path]:
    """Directories that the run's jobs made, in the order in which they were begun: that of their ids and restarts.

    Raises UserError where the run's directory cannot be read.
    """
    with failures_named(run_dir):
        return in_order(run_dir.iterdir())


def in_order(directories: Iterable[Path]) -> list[Path]:
    """Those that jobs made, in the order in which they were begun."""
    return sorted((path for path in directories if JOB_DIR_NAME.fullmatch(path.name)), key=_numbers)


def begun_dirs(run_dir: Path) -> list[Path]:
    """Those of `job_dirs` that are run directories: a job that finds its run finished, or a mistake, starts no ranks.

    Raises UserError where the run's directory cannot be read.
    """
    return [job_dir for job_dir in job_dirs(run_dir) if (job_dir / paths.SETTINGS).exists()]


def _numbers(job_dir: Path) -> tuple[int, int]:
    """The job's id, and how often it was requeued before."""
    match = JOB_DIR_NAME.fullmatch(job_dir.name)
    assert match, job_dir
    return int(match[1]), int(match[2] or 0)
