"""Submit runs to a real Slurm and follow their jobs, for tests and for tools of dev/."""

import contextlib
import json
import math
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.support.runs import REPOSITORY, Run, arguments, environment
from dev.support.slurm_cluster import ENDED, Cluster
from llama31.config import paths
from llama31.run_dir import job_chain, time_limit_warning
from llama31.status import latest_step

PAUSE = 0.2  # seconds between looks at a job that trains for long, to leave the cores to it


@dataclass
class Submitted:
    """A submitted run and its jobs."""

    cluster: Cluster
    run_dir: Path
    jobs: list[str]
    printed: str

    def again(self, *options: str, env: Mapping[str, str] = os.environ) -> str:
        """Submit the script again by sbatch and return the job's id."""
        script = self.run_dir / paths.SCRIPT
        self.jobs.append(self.cluster.ask("sbatch", "--parsable", *options, script, env=env).strip())
        return self.jobs[-1]

    def log(self, job: str) -> str:
        """Return the output of a job."""
        file = self.run_dir / paths.slurm_log(job)
        return file.read_text() if file.is_file() else ""

    def job_dir(self, job: str, restarts: int = 0) -> Path:
        """Return the directory of a job."""
        return self.run_dir / job_chain.job_dir_name(int(job), restarts)

    def ended(self, job: str, restarts: int = 0) -> Run:
        """Wait for the end of a job and return its run."""
        self.cluster.ended(job)
        code, _, signum = self.cluster.shown(job)["ExitCode"].partition(":")
        return Run(self.job_dir(job, restarts), self.log(job), int(code) or int(signum))

    def steps(self, job: str, restarts: int = 0) -> list[int]:
        """Return the steps in a job's metrics, including those of earlier jobs."""
        file = self.job_dir(job, restarts) / paths.METRICS
        lines = file.read_text().splitlines(keepends=True) if file.is_file() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event["step"] for event in events if event["event"] == "step"]

    def latest_step(self, job: str, restarts: int = 0) -> int:
        """Return the newest step in a job's metrics, which may be of an earlier job; 0 if there is none."""
        recent = latest_step.read(self.job_dir(job, restarts) / paths.METRICS)
        return recent.last_step.step if recent else 0

    def reaches(self, step: int, job: str, restarts: int = 0) -> None:
        """Wait for a step of a job, however long it takes. Raises AssertionError if the job ends before."""

        def reached() -> bool:
            is_over = self.cluster.state(job) in ENDED  # asked first: the step may come in between
            has = self.latest_step(job, restarts) >= step
            assert has or not is_over, self.log(job)
            return has

        self.cluster.until(f"job {job} reaches step {step}", reached, deadline=math.inf, pause=PAUSE)

    def restarts(self, job: str) -> int:
        """Return how often a job was queued again."""
        return int(self.cluster.shown(job)["Restarts"])

    def after_a_step(self, job: str, restarts: int = 0) -> dict[int, int]:
        """Wait for the first step of this job and return the processes of its ranks, by rank."""

        def has_trained() -> bool:
            is_over = self.cluster.state(job) in ENDED
            file = self.job_dir(job, restarts) / paths.START
            has = file.is_file() and len(self.steps(job, restarts)) > json.loads(file.read_text())["step"]
            assert has or not is_over, self.log(job)
            return has

        self.cluster.until(f"job {job} trains", has_trained)
        return self.ranks(job)

    def ranks(self, job: str) -> dict[int, int]:
        """Return the processes of a job's ranks, by rank."""
        found = [self.cluster.processes(job, node) for node in ("n1", "n2")]
        return {rank: pid for processes in found for pid, rank in processes.items() if rank is not None}

    def command_of_rank_0(self, job: str) -> bytes:
        """Return the command line of rank 0 of a job; empty before it starts."""
        with contextlib.suppress(KeyError, FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.ranks(job)[0]}/cmdline").read_bytes()
        return b""

    def seconds(self, job: str) -> int:
        """Return the seconds since the start of a job."""
        hours, minutes, seconds = map(int, self.cluster.shown(job)["RunTime"].split(":"))
        return (hours * 60 + minutes) * 60 + seconds

    def limit(self, job: str, seconds: int) -> None:
        """Set the time limit of a running job to the first whole minute that leaves `seconds`.

        Called once the ranks have started, because how long that takes depends on the machine.
        """
        minutes = (self.seconds(job) + seconds) // 60 + 1
        self.cluster.ask("scontrol", "update", f"jobid={job}", f"timelimit={minutes}")

    @contextmanager
    def held(self, ranks: Iterable[int]) -> Iterator[None]:
        """Stop the ranks within this context, so that a quick job does not end too early."""
        _signal(ranks, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal(ranks, signal.SIGCONT)

    def warned(self, job: str, restarts: int = 0) -> None:
        """Wait until the warning of the time limit has arrived."""
        file = self.job_dir(job, restarts) / time_limit_warning.FILE
        self.cluster.until(f"job {job} is warned", file.read_text)


def submit(
    cluster: Cluster, settings: Mapping[str, Any], *options: str, code: Path = REPOSITORY, **exported: str
) -> list[Submitted]:
    """Submit as a user does; return a Submitted for each experiment."""
    command = ["bash", code / "run_llama31.sh", *options, *arguments(dict(settings))]
    printed = cluster.ask(*command, env={**environment(), "CUDA_VISIBLE_DEVICES": "", **exported})
    found = []
    for directory in re.findall("^run directory: (.*)", printed, re.MULTILINE):
        stored = job_chain.load(Path(directory))
        assert stored, printed
        found.append(Submitted(cluster, Path(directory), [str(job) for job in stored.jobs], printed))
    return found


def _signal(processes: Iterable[int], signum: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
