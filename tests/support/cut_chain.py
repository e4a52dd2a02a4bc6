"""A chain of jobs on a real Slurm, of which each is cut in another way."""

import os
import signal

from dev.support.runs import Run
from dev.support.submitted import Submitted
from llama31.run_dir.events import FAILED

SIGNAL_BEFORE_END = 20  # seconds


class Chain:
    """Three jobs, and what was submitted by hand besides and after them, each cut in another way."""

    def __init__(self, run: Submitted):
        self.run = run
        self.cluster = run.cluster
        first, second, third = run.jobs
        self.shown = self.cluster.shown(second)
        self.asked_for = self.cluster.shown(first)

        self.limited = [self.limit(first), self.limit(second, beside=True)]

        run.after_a_step(third)
        self.cluster.ask("scancel", third)
        self.cancelled = run.ended(third)
        self.state_of_cancelled = self.cluster.state(third)

        retried = run.again()
        os.kill(run.after_a_step(retried)[1], signal.SIGKILL)
        run.after_a_step(retried, restarts=1)
        self.cluster.lose("n2", retried)
        try:
            self.cluster.until("the job is queued again", lambda: self.cluster.shown(retried)["Restarts"] == "2")
        finally:
            self.cluster.bring_back("n2")
        self.retried = [Run(run.job_dir(retried, 0), run.log(retried), FAILED), run.ended(retried, restarts=1)]

        self.last = run.ended(run.again())
        self.state_of_last = self.cluster.state(run.jobs[-1])
        self.finished = run.ended(run.again())

    def limit(self, job: str, *, beside: bool = False) -> Run:
        """Wait until the time limit ends a job; with `beside`, start another one in the same run directory before."""
        ranks = self.run.after_a_step(job).values()
        self.run.limit(job, SIGNAL_BEFORE_END + (60 if beside else 5))
        with self.run.held(ranks):
            if beside:
                self.second = self.run.ended(self.run.again())
            self.run.warned(job)
        return self.run.ended(job)
