"""Follow submitted runs until their last jobs have ended: print state changes and the jobs' logs."""

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.launch import remote_shell
from llama31.launch.slurm import job_states, remote_files
from llama31.launch.slurm.job_states import PENDING, RUNNING, UNKNOWN, JobState
from llama31.run_dir.events import FAILED, INTERRUPTED, WORST_LAST, worst
from llama31.run_dir.job_chain import Submission

INTERVAL = 3.0  # seconds between calls of squeue


@dataclass
class _Job:
    """A job that is followed."""

    job_id: int
    log: Path
    destination: str
    title: str
    """Prefix of its lines."""
    says_state: bool = True
    """False if another run, which shares the job, prints its changes of state."""
    state: JobState | None = None
    """None before the first answer of Slurm."""
    printed: int = 0
    """Number of lines of its log that were printed."""

    @property
    def has_ended(self) -> bool:
        return self.state is not None and self.state.has_ended

    def new_lines(self) -> list[str]:
        """Return the new lines of its log; the last one is held back while it is incomplete and the job runs."""
        # The submitting machine may not see the cluster's files.
        where = "" if self.log.exists() else self.destination
        try:
            printed = remote_shell.output(where, ["tail", "-n", f"+{self.printed + 1}", str(self.log)])
        except UserError:  # no log yet
            return []
        *lines, rest = printed.split("\n")
        if rest and self.has_ended:
            lines.append(rest)
        self.printed += len(lines)
        return lines


def follow(submitted: Sequence[tuple[Path, Submission]], interval: float = INTERVAL) -> int:
    """Print state changes and logs of the jobs of runs until all have ended; call squeue every `interval` seconds.

    Through ssh, the run directories may not be visible here. Returns the exit code of the worst outcome; INTERRUPTED
    after Ctrl-C, which ends no job.
    """
    runs = {run_dir: _jobs(run_dir, one, is_one_of_many=len(submitted) > 1) for run_dir, one in submitted}
    try:
        _watch([job for jobs in runs.values() for job in jobs], interval)
    except KeyboardInterrupt:
        left = [job for jobs in runs.values() for job in jobs if not job.has_ended]
        see = shlex.join(["python3", "-m", "llama31", "status", *map(str, runs)])
        print(f"\nstopped following; the jobs keep running. To see them: {see}", flush=True)
        for destination in sorted({job.destination for job in left}):
            ids = [str(job.job_id) for job in left if job.destination == destination]
            print(f"To cancel them: {shlex.join(remote_shell.command(destination, ['scancel', *ids]))}", flush=True)
        return INTERRUPTED
    return worst(_exit_code(run_dir, jobs[-1]) for run_dir, jobs in runs.items())


def _jobs(run_dir: Path, submitted: Submission, *, is_one_of_many: bool) -> list[_Job]:
    title = f"seed {submitted.seed}: " if is_one_of_many else ""
    first = submitted.place == 1
    return [_Job(job, run_dir / paths.slurm_log(job), submitted.destination, title, first) for job in submitted.jobs]


def _watch(jobs: Sequence[_Job], interval: float) -> None:
    """Print news until all jobs have ended. Retries while Slurm does not answer, such as during a restart."""
    trouble = ""
    while left := [job for job in jobs if not job.has_ended]:
        asked = time.monotonic()
        try:
            for line in _all_news(left):
                print(line, flush=True)
            trouble = ""
        except UserError as error:
            if str(error) != trouble:
                trouble = str(error)
                print(f"{trouble}; retrying every {interval:g} s", flush=True)
        if not all(job.has_ended for job in jobs):
            time.sleep(max(0.0, asked + interval - time.monotonic()))


def _all_news(jobs: Sequence[_Job]) -> Iterator[str]:
    """Yield the news of all jobs, with one call of squeue for each destination."""
    for destination in sorted({job.destination for job in jobs}):
        of_place = [job for job in jobs if job.destination == destination]
        now = job_states.states([job.job_id for job in of_place], destination)
        for job in of_place:
            yield from (job.title + line for line in _news(job, now[job.job_id]))


def _news(job: _Job, state: JobState) -> Iterator[str]:
    """Yield what has changed since the last time, in order of time."""
    former, job.state = job.state, state
    has_changed = job.says_state and (former is None or _what_counts(former) != _what_counts(state))
    if has_changed and not state.has_ended:
        yield _words(job.job_id, state)
    if state.state != PENDING:
        yield from job.new_lines()
    if has_changed and state.has_ended:
        yield _words(job.job_id, state)


def _what_counts(state: JobState) -> tuple[str, str, str, int]:
    """Return the fields that count as a change: not the times, whose estimates Slurm keeps changing."""
    return state.state, state.reason, state.nodes, state.restarts


def _words(job_id: int, state: JobState) -> str:
    if state.has_ended:
        return f"job {job_id} ended" + (f": {state.state}" if state.state != UNKNOWN else "; Slurm has forgotten how")
    if state.state == PENDING:
        expected = f", expected to start {state.start}" if state.start else ""
        return f"job {job_id} is pending" + (f": {state.reason}" if state.reason else "") + expected
    if state.state == RUNNING:
        requeued = f"; it was requeued, {state.restarts} times so far" if state.restarts else ""
        return f"job {job_id} runs on {state.nodes}" + (f", until {state.end} at most" if state.end else "") + requeued
    return f"job {job_id}: {state.state}"


def _exit_code(run_dir: Path, last: _Job) -> int:
    """Return the exit code of the run's outcome; of its last job if no job has started ranks or none can be read."""
    try:
        has_started, outcome = remote_files.last_outcome(run_dir, "" if run_dir.is_dir() else last.destination)
    except UserError:
        has_started, outcome = False, None
    if has_started:
        return outcome.exit_code if outcome else FAILED
    state = last.state or JobState()
    return state.exit_code if state.state in ("COMPLETED", "FAILED") and state.exit_code in WORST_LAST else FAILED
