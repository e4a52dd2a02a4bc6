"""A real Slurm of two nodes, n1 and n2, on this machine (dev/slurm_cluster.sh); conftest.py's `cluster` starts one.

With LLAMA31_SLURM_RELEASE=trixie, another release of Debian, it is the Slurm of that one; trixie:ROOT keeps it in
directory ROOT, for further tests.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import debian
import lacking
import pytest
from checkout import REPOSITORY

RELEASE = os.environ.get("LLAMA31_SLURM_RELEASE", "")
DEADLINE = 300  # seconds; starting ranks takes a minute on a machine that is busy
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Cluster:
    """A Slurm of two nodes, whose settings, logs and state lie in `directory`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.bin = directory / "bin"
        """Slurm's programs, if they are those of a RELEASE and not this machine's."""

    @classmethod
    @contextmanager
    def started(cls, files: Mapping[str, str] = MappingProxyType({})) -> Iterator["Cluster"]:
        """A cluster of its own, started (3 s), and stopped and removed at the end.

        `files` are texts for its directory, such as more.conf with further settings; DIRECTORY in them is its name.
        """
        if os.geteuid():
            lacking.skip("slurmd needs root")
        if not RELEASE:
            debian.need("slurmctld", "slurm-wlm", "munge")
        directory = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: it holds a socket
        cluster = cls(directory)
        try:
            for name, text in files.items():
                (directory / name).write_text(text.replace("DIRECTORY", str(directory)))
            cluster.control("start")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PATH", str(cluster.bin), prepend=os.pathsep)
                yield cluster
        finally:
            cluster.control("stop")
            shutil.rmtree(directory)

    def control(self, command: str) -> None:
        """start, stop or status of dev/slurm_cluster.sh."""
        subprocess.run(
            ["bash", REPOSITORY / "dev" / "slurm_cluster.sh", command, f"--release={RELEASE}", self.directory],
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

    def shown(self, number: str) -> dict[str, str]:
        """What Slurm says of a job, such as JobState and ExitCode; of values with a space, the first word."""
        fields = self.ask("scontrol", "--oneliner", "show", "job", number).split()
        return dict(field.partition("=")[::2] for field in fields)

    def state(self, number: str) -> str:
        """A job's state in Slurm's words, such as COMPLETED."""
        return self.shown(number)["JobState"]

    def ended(self, number: str) -> str:
        """Waits for the end of a job; gives its state."""
        self.until(f"job {number} ends", lambda: self.state(number) in ENDED)
        return self.state(number)

    def until(self, what: str, happened: Callable[[], object]) -> None:
        """Waits until something has happened; asking Slurm takes 10 ms, so that nothing spins."""
        end = time.monotonic() + DEADLINE
        while not happened():
            assert time.monotonic() < end, f"not within {DEADLINE} s: {what}\n{self.ask('squeue')}{self.ask('sinfo')}"

    # What runs on the nodes

    def processes(self, number: str, node: str) -> dict[int, int | None]:
        """Processes of a job on a node, with their rank where they are what srun started of its newest step."""
        listed = self.run("scontrol", "listpids", number, node).stdout.splitlines()[1:]
        lines = [line.split() for line in listed if int(line.split()[0]) > 0]  # -1: not started yet
        newest = max((line[2] for line in lines if line[2].isdecimal()), key=int, default="")
        return {int(pid): int(rank) if step == newest and rank != "-" else None for pid, _, step, _, rank in lines}

    def lose(self, node: str, number: str) -> None:
        """A node on which a job runs is gone, as one that lost its power, and Slurm notices at once."""
        tasks = self.processes(number, node)
        slurmd = int((self.directory / f"slurmd.{node}.pid").read_text())
        for pid in (slurmd, *_keepers(tasks), *tasks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def bring_back(self, node: str) -> None:
        """A lost node is up again; it reports to Slurm, and is ready for jobs (ReturnToService=2)."""
        self.ask("slurmd", "-f", self.directory / "slurm.conf", "-N", node)
        self.until(f"{node} is back", lambda: self.ask("sinfo", "-hN", "-n", node, "-o", "%T") in ("idle\n", "mixed\n"))


def _keepers(tasks: Iterable[int]) -> set[int]:
    """The daemons slurmstepd of tasks, which would tell Slurm of the tasks' end."""
    keepers = set()
    for pid in tasks:
        with contextlib.suppress(FileNotFoundError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if Path(f"/proc/{parent}/comm").read_text() == "slurmstepd\n":
                keepers.add(parent)
    return keepers
