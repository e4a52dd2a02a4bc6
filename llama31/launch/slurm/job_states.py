"""States of Slurm jobs, from squeue while it knows them, then from sacct if there is accounting. Standard library.

Without accounting Slurm forgets a job some minutes after its end (MinJobAge); then only the run's own outcome is left.
tests/slurm_outputs has the output of versions 22.05, 24.11 and 26.05.
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
# States of a job that will not run again (man squeue, JOB STATE CODES).
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
FORGOTTEN = "Invalid job id specified"  # squeue's error for a single unknown job; among several it omits unknown ones
# Each command's names of the same fields; results use sacct's.
SQUEUE_FORMAT = ("JobID", "State", "NodeList", "StartTime", "EndTime", "RestartCnt", "exit_code", "Reason")
SQUEUE_FIELDS = ("JobIDRaw", "State", "NodeList", "Start", "End", "RestartCnt", "ExitCode", "Reason")
SACCT_FIELDS = ("JobIDRaw", "State", "NodeList", "Start", "End", "ExitCode")
AMBIGUOUS_FOR_SACCT = (INTERRUPTED - 128,)
"""Before 25.11 sacct subtracts 128 from a higher exit code, so that an interrupted run looks like bad input."""
NOTHING = ("", "None", "NONE", "N/A", "Unknown", "None assigned")  # how Slurm writes an unknown value


@dataclass(frozen=True)
class JobState:
    """State of one job; fields are empty if Slurm does not know them."""

    state: str = UNKNOWN
    """Such as PENDING, RUNNING or TIMEOUT; UNKNOWN for a job that Slurm has forgotten."""
    nodes: str = ""
    """Nodes that it runs or ran on, abbreviated by Slurm."""
    start: str = ""
    """Local time of the cluster, ISO 8601; for a pending job, its expected start."""
    end: str = ""
    """As `start`; for a running job, when it reaches its time limit."""
    restarts: int = 0
    """How often it was requeued; 0 from sacct, which does not report it."""
    reason: str = ""
    """Why it is pending."""
    exit_code: int | None = None
    """Exit code of its script, 128 + N after signal N; 0 before its end; None if unknown."""

    @property
    def has_ended(self) -> bool:
        """Whether it will not run again."""
        return self.state in ENDED or self.state == UNKNOWN


def states(job_ids: Sequence[int], destination: str) -> dict[int, JobState]:
    """Return the state of each job, by one call of squeue. Raises UserError if Slurm cannot be asked."""
    found = _squeue(job_ids, destination) if job_ids else {}
    if forgotten := [job for job in job_ids if job not in found]:
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
    """Return states from accounting; empty without accounting."""
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
    """Yield id and state of the job in each line. Lines of another form are a site's own messages."""
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
    """Return the exit code as a shell has it; None for an unknown format."""
    if said.isdecimal():  # squeue up to 22.05: the status of wait()
        code, signum = int(said) >> 8, int(said) & 127
    elif match := re.fullmatch(r"(\d+):(\d+)", said):
        code, signum = int(match[1]), int(match[2])
    else:
        return None
    return 128 + signum if signum else code
