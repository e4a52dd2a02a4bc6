"""What Slurm says of jobs: squeue while it knows them, sacct afterwards where there is accounting. Standard library.

Without accounting Slurm forgets a job some minutes after its end (MinJobAge); then a run's own outcome is what is left.
What the versions 22.05, 24.11 and 26.05 print is in tests/slurm_outputs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llama31.common.errors import UserError
from llama31.launch import remote_shell
from llama31.run_dir.events import INTERRUPTED

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
FORGOTTEN = (
    "Invalid job id specified"  # squeue fails so for a single unknown job; of several it leaves unknown ones out
)
# Each command's names for the same fields, which are then read by sacct's.
SQUEUE_FORMAT = ("JobID", "State", "NodeList", "StartTime", "EndTime", "RestartCnt", "exit_code", "Reason")
SQUEUE_FIELDS = ("JobIDRaw", "State", "NodeList", "Start", "End", "RestartCnt", "ExitCode", "Reason")
SACCT_FIELDS = ("JobIDRaw", "State", "NodeList", "Start", "End", "ExitCode")
AMBIGUOUS_FOR_SACCT = (INTERRUPTED - 128,)
"""Before 25.11 sacct takes 128 off an exit code above that, so that an interrupted run looks like bad input."""
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
    exit_code: int | None = None
    """What its script left with, as a shell gives it: 128 + the number of a signal. 0 before its end; None: unknown."""

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
    fields = ",".join(f"{name}:|" for name in SQUEUE_FORMAT)
    argv = ["squeue", "--noheader", "--states=all", _jobs(job_ids), f"--Format={fields}"]
    try:
        printed = remote_shell.output(destination, argv)
    except UserError as error:
        if FORGOTTEN in str(error):
            return {}
        raise
    return dict(_states(printed, SQUEUE_FIELDS))


def _sacct(job_ids: Iterable[int], destination: str) -> dict[int, JobState]:
    """What accounting says, nothing where there is none."""
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", _jobs(job_ids), f"--format={','.join(SACCT_FIELDS)}"]
    try:
        printed = remote_shell.output(destination, argv)
    except UserError:
        return {}
    return {
        job: replace(state, exit_code=None if state.exit_code in AMBIGUOUS_FOR_SACCT else state.exit_code)
        for job, state in _states(printed, SACCT_FIELDS)
    }


def _states(printed: str, fields: Sequence[str]) -> Iterator[tuple[int, JobState]]:
    """Id and state of the job in each line. Lines of another form are a site's own remarks."""
    for line in printed.splitlines():
        said = dict(zip(fields, line.split("|"), strict=False))
        if len(said) == len(fields) and said["JobIDRaw"].isdecimal():
            restarts = said.get("RestartCnt", "")
            yield (
                int(said["JobIDRaw"]),
                JobState(
                    state=said["State"].split(" ")[0] or UNKNOWN,  # as in "CANCELLED by 1000"
                    nodes=_said(said["NodeList"]),
                    start=_said(said["Start"]),
                    end=_said(said["End"]),
                    restarts=int(restarts) if restarts.isdecimal() else 0,
                    reason=_said(said.get("Reason", "")),
                    exit_code=_exit_code(said["ExitCode"]),
                ),
            )


def _jobs(job_ids: Iterable[int]) -> str:
    return f"--jobs={','.join(map(str, job_ids))}"


def _said(value: str) -> str:
    return "" if value.strip() in NOTHING else value.strip()


def _exit_code(said: str) -> int | None:
    """Exit code as a shell gives it; None for what no version known to us writes."""
    if said.isdecimal():  # squeue up to 22.05: what wait() gives
        code, signum = int(said) >> 8, int(said) & 127
    elif match := re.fullmatch(r"(\d+):(\d+)", said):
        code, signum = int(match[1]), int(match[2])
    else:
        return None
    return 128 + signum if signum else code
