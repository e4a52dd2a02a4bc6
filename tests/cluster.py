"""A real Slurm of two nodes, n1 and n2, on this machine (dev/slurm_cluster.sh); conftest.py's `cluster` starts one."""

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DEADLINE = 120  # seconds
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")


class Cluster:
    """A Slurm of two nodes, whose settings, logs and state lie in `directory`."""

    def __init__(self, directory: Path):
        self.directory = directory

    def control(self, command: str) -> None:
        """start, stop or status of dev/slurm_cluster.sh."""
        subprocess.run(
            ["bash", REPOSITORY / "dev" / "slurm_cluster.sh", command, self.directory],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=DEADLINE,
        )

    def run(
        self, *command: str | Path, env: Mapping[str, str] = os.environ, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command, such as srun, in the repository against this cluster."""
        return subprocess.run(
            command,
            env={**env, "SLURM_CONF": str(self.directory / "slurm.conf")},
            input=stdin,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def ask(self, *command: str | Path, env: Mapping[str, str] = os.environ, stdin: str = "") -> str:
        """What a command prints that must succeed."""
        done = self.run(*command, env=env, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self, number: str) -> str:
        """A job's state in Slurm's words, such as COMPLETED."""
        fields = self.ask("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.partition("=")[::2] for field in fields)["JobState"]

    def ended(self, number: str) -> str:
        """Waits for the end of a job; gives its state."""
        end = time.monotonic() + DEADLINE
        while (state := self.state(number)) in UNFINISHED:
            assert time.monotonic() < end, f"job {number} is {state} after {DEADLINE} s"
        return state
