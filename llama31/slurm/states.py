"""What Slurm says of jobs: squeue while it knows them, sacct afterwards where there is accounting. Standard library.

Without accounting Slurm forgets a job some minutes after its end (MinJobAge); then a run's own outcome is what is left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llama31.errors import UserError
from llama31.slurm import remote

UNKNOWN = "UNKNOWN"
PENDING = "PENDING"
RUNNING = "RUNNING"
# States of a job that will not go on (man squeue, JOB STATE CODES).
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
FORGOTTEN = "Invalid job id specified"  # what squeue says of a single job that Slurm does not know
SQUEUE_FIELDS = ("JobID", "State", "NodeList", "StartTime", "EndTime", "RestartCnt", "exit_code", "Reason")
SACCT_FIELDS = ("JobIDRaw", "State", "NodeList", "Start", "End", "ExitCode")
NOTHING = ("", "None", "NONE", "N/A", "Unknown", "None assigned")  # where Slurm has nothing to say


@dataclass(frozen=True)
class JobState:
    """What Slurm says of one job; empty where it says nothing."""

    state: str = UNKNOWN
    """Slurm's word, such as PENDING, RUNNING or TIMEOUT; UNKNOWN for a job that it has forgotten."""
    nodes: str = ""
    """Nodes that it runs or ran on, as Slurm abbreviates them."""
    start: str = ""
    """Local time of the cluster, ISO 8601; of a pending job, when Slurm expects it to start."""
    end: str = ""
    """As `start`; of a running job, when its time limit is reached."""
    restarts: int = 0
    """How often it was requeued; accounting does not say."""
    reason: str = ""
    """Why it is pending."""
    exit_code: int = 0
    """What its script left with, as a shell gives it: 128 + the number of a signal. 0 before its end."""

    @property
    def has_ended(self) -> bool:
        """It will not run any more."""
        return self.state in ENDED or self.state == UNKNOWN


def states(job_ids: Sequence[int], destination: str) -> dict[int, JobState]:
    """The state of each job, asked for at once. Raises UserError where Slurm cannot be asked.

    Args:
        job_ids: Slurm's ids.
        destination: [user@]host to ask through ssh; empty asks the tools of this machine.
    """
    found = _squeue(job_ids, destination) if job_ids else {}
    forgotten = [job for job in job_ids if job not in found]
    if forgotten:
        found |= _sacct(forgotten, destination)
    return {job: found.get(job, JobState()) for job in job_ids}


def _squeue(job_ids: Iterable[int], destination: str) -> dict[int, JobState]:
    fields = ",".join(f"{name}:|" for name in SQUEUE_FIELDS)
    argv = ["squeue", "--noheader", "--states=all", _jobs(job_ids), f"--Format={fields}"]
    try:
        printed = remote.output(destination, argv)
    except UserError as error:
        if FORGOTTEN in str(error):
            return {}
        raise
    found = {}
    for line in printed.splitlines():
        job, state, nodes, start, end, restarts, status, reason, _ = line.split("|", len(SQUEUE_FIELDS))
        found[int(job)] = JobState(
            state=state,
            nodes=_said(nodes),
            start=_said(start),
            end=_said(end),
            restarts=int(restarts),
            reason=_said(reason),
            exit_code=_exit_code(int(status) >> 8, int(status) & 127),  # as wait() gives it
        )
    return found


def _sacct(job_ids: Iterable[int], destination: str) -> dict[int, JobState]:
    """What accounting says, nothing where there is none."""
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", _jobs(job_ids), f"--format={','.join(SACCT_FIELDS)}"]
    try:
        printed = remote.output(destination, argv)
    except UserError:
        return {}
    found = {}
    for line in printed.splitlines():
        job, state, nodes, start, end, code_and_signal = line.split("|")
        found[int(job)] = JobState(
            state=state.split()[0],  # as in "CANCELLED by 1000"
            nodes=_said(nodes),
            start=_said(start),
            end=_said(end),
            exit_code=_exit_code(*map(int, code_and_signal.split(":"))),
        )
    return found


def _jobs(job_ids: Iterable[int]) -> str:
    return f"--jobs={','.join(map(str, job_ids))}"


def _said(value: str) -> str:
    return "" if value.strip() in NOTHING else value.strip()


def _exit_code(code: int, signum: int) -> int:
    return 128 + signum if signum else code
