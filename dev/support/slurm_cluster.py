"""A real Slurm of two nodes, n1 and n2, on this machine (dev/slurm_cluster.sh), for tests and for tools of dev/.

LLAMA31_SLURM_RELEASE=trixie uses the Slurm of another Debian release; trixie:ROOT installs it in directory ROOT and
keeps it there.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from dev.support.runs import REPOSITORY

RELEASE = os.environ.get("LLAMA31_SLURM_RELEASE", "")
DEADLINE = 300  # seconds; starting ranks takes a minute on a machine that is busy
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Cluster:
    """A Slurm of two nodes, with settings, logs and state in `directory`. `networks`: so that `cut` can be used."""

    def __init__(self, directory: Path, networks: bool = False):
        self.directory = directory
        self.options = [f"--release={RELEASE}", *["--networks"] * networks]
        self.bin = directory / "bin"
        """Slurm's programs, if they are from another RELEASE."""

    def control(self, command: str) -> None:
        """Run `start`, `stop` or `status` of dev/slurm_cluster.sh."""
        subprocess.run(
            ["bash", REPOSITORY / "dev" / "slurm_cluster.sh", command, *self.options, self.directory],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=DEADLINE,
        )

    def run(
        self, *command: str | Path, env: Mapping[str, str] = os.environ, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, such as srun, in the repository with this cluster."""
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
        """Run a command and return its output. Raises AssertionError if it fails."""
        done = self.run(*command, env=env, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def shown(self, number: str) -> dict[str, str]:
        """Return the fields of a job, such as JobState and ExitCode; of values with spaces, the first word."""
        fields = self.ask("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.partition("=")[::2] for field in fields)

    def state(self, number: str) -> str:
        """Return the state of a job, such as COMPLETED."""
        return self.shown(number)["JobState"]

    def ended(self, number: str, deadline: float = DEADLINE) -> str:
        """Wait for the end of a job and return its state."""
        self.until(f"job {number} ends", lambda: self.state(number) in ENDED, deadline)
        return self.state(number)

    def until(self, what: str, happened: Callable[[], object], deadline: float = DEADLINE, pause: float = 0) -> None:
        """Wait until a condition holds, at most `deadline` seconds.

        Each query of Slurm takes 10 ms, so there is no pause between them by default.
        """
        end = time.monotonic() + deadline
        while not happened():
            assert time.monotonic() < end, f"not within {deadline} s: {what}\n{self.ask('squeue')}{self.ask('sinfo')}"
            time.sleep(pause)

    # Processes on the nodes

    def processes(self, number: str, node: str) -> dict[int, int | None]:
        """Return the processes of a job on a node, with the rank of those that srun started for its newest step."""
        listed = self.run("scontrol", "listpids", number, node).stdout.splitlines()[1:]
        lines = [line.split() for line in listed if int(line.split()[0]) > 0]  # -1: not started yet
        newest = max((line[2] for line in lines if line[2].isdecimal()), key=int, default="")
        return {int(pid): int(rank) if step == newest and rank != "-" else None for pid, _, step, _, rank in lines}

    def lose(self, node: str, number: str) -> None:
        """Simulate the power loss of a node on which a job runs; Slurm is notified immediately."""
        tasks = self.processes(number, node)
        slurmd = int((self.directory / f"slurmd.{node}.pid").read_text())
        for pid in (slurmd, *_keepers(tasks), *tasks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def bring_back(self, node: str) -> None:
        """Start a lost node again; it registers with Slurm and accepts jobs (ReturnToService=2)."""
        start = ["slurmd", "-f", self.directory / "slurm.conf", "-N", node]
        self.ask(*(self._network("run", node, *start) if self.has_networks else start))
        self.until(f"{node} is back", lambda: self.ask("sinfo", "-hN", "-n", node, "-o", "%T") in ("idle\n", "mixed\n"))

    @property
    def has_networks(self) -> bool:
        """Return whether the nodes have networks of their own."""
        return (self.directory / "networks").exists()

    @contextlib.contextmanager
    def cut(self, node: str) -> Iterator[None]:
        """Cut a node off within this context. Its processes keep running; nothing tells either side."""
        self.ask(*self._network("cut", node))
        try:
            yield
        finally:
            self.ask(*self._network("heal", node))

    def _network(self, command: str, node: str, *more: str | Path) -> list[str | Path]:
        return ["bash", REPOSITORY / "dev" / "slurm_networks.sh", command, self.directory, node, *more]


def _keepers(tasks: Iterable[int]) -> set[int]:
    """Return the slurmstepd daemons of tasks, which would report the end of the tasks to Slurm."""
    keepers = set()
    for pid in tasks:
        with contextlib.suppress(FileNotFoundError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{parent}/comm").read_text() == "slurmstepd\n":
                keepers.add(parent)
    return keepers
