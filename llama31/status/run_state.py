"""Describe the state of a run: from its outcome, from Slurm, and from the lock on its directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama31.config import paths
from llama31.launch.slurm.job_states import PENDING, UNKNOWN, JobState
from llama31.run_dir import job_chain, record
from llama31.run_dir.events import INTERRUPTED, TARGET_NOT_REACHED, Outcome
from llama31.run_dir.job_chain import Submission

ENDS = {TARGET_NOT_REACHED: "target not reached", INTERRUPTED: "interrupted"}
REACHED = "target reached"
RUNNING = "running"


@dataclass(frozen=True)
class ChainJob:
    """One job of a chain, with its state in Slurm; None if Slurm could not be queried."""

    job_id: int
    state: JobState | None

    @property
    def is_pending(self) -> bool:
        return self.state is not None and self.state.state == PENDING

    @property
    def is_running(self) -> bool:
        return self.state is not None and not self.state.has_ended and not self.is_pending


def current(jobs: Sequence[ChainJob]) -> int:
    """Return the index of the running job, else of the next one to run, else of the last one."""
    running = [index for index, job in enumerate(jobs) if job.is_running]
    pending = [index for index, job in enumerate(jobs) if job.is_pending]
    return (running + pending + [len(jobs) - 1])[0]


def job_text(jobs: Sequence[ChainJob]) -> str:
    """Describe the current job of a chain."""
    index = current(jobs)
    job, state = jobs[index], jobs[index].state
    text = f"job {job.job_id}"
    if state:
        text += f" {state.state}"
        text += f" ({state.reason})" if job.is_pending and state.reason else ""
        text += f" on {state.nodes}" if job.is_running and state.nodes else ""
    return f"{text}, {index + 1} of {len(jobs)}" if len(jobs) > 1 else text


def of_local(run_dir: Path, *, has_steps: bool) -> str:
    """Return the state of a run without Slurm; `has_steps`: its metrics contain steps."""
    if outcome := record.load_outcome(run_dir):
        return _outcome_text(outcome)
    claimed = record.is_claimed(run_dir)
    if claimed is None:
        return "no outcome yet; run status on the machine that started it"
    if not claimed:
        return "killed"
    return RUNNING if has_steps else "starting"


def of_chain(
    run_dir: Path,
    jobs: Sequence[ChainJob],
    job_dirs: Sequence[Path],
    *,
    has_steps: bool,
    submitted: Submission | None = None,
) -> str:
    """Return the state of a run that was submitted to Slurm as `jobs`.

    `job_dirs`: directories of the jobs that have started ranks, in order; `has_steps`: the last one's has steps;
    `submitted` tells whether other runs share its jobs.
    """
    job = jobs[current(jobs)]
    newest = job_dirs[-1] if job_dirs else None
    outcome = record.load_outcome(newest) if newest else None
    last = _outcome_text(outcome) if outcome else "killed"
    if last == REACHED:  # later jobs end at once
        return last
    if job.is_running:
        if submitted and submitted.runs > 1 and not job_chain.has_started(run_dir):
            return f"waiting for its turn, run {submitted.place} of {submitted.runs} in the job"
        if newest is None or job_chain.job_of(newest) != job.job_id:
            return "starting"
        return last if outcome else RUNNING if has_steps else "starting"
    if job.is_pending:
        return f"waiting for the next job; last one: {last}" if newest else "queued"
    if outcome:
        return last
    if job.state is None:
        return "no outcome yet; Slurm did not answer"
    how = "" if job.state.state == UNKNOWN else f": {job.state.state}"
    log = run_dir / paths.slurm_log(job.job_id)
    # Its script failed, or the check of settings and data before the ranks started.
    if job.state.state == "FAILED" and log.exists():
        how += f"; see {log.name}"
    return f"killed{how}" if newest else f"never started{how}"


def _outcome_text(outcome: Outcome) -> str:
    return f"{ENDS.get(outcome.exit_code, 'failed')}: {outcome.reason}" if outcome.exit_code else REACHED
