"""Run this project as a user does, or another command, and measure its processes from outside."""

import json
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import psutil

from dev.support.runs import REPOSITORY, arguments, environment
from llama31.config import paths
from llama31.run_dir import startup_log

SAMPLES_PER_SECOND = 2  # measurements of the memory
SLOW_FIRST = 3  # steps that choose kernels and allocate memory


@dataclass(frozen=True)
class Watched:
    """Measurements of one run."""

    run_dir: Path
    parts: dict[str, float]
    """Seconds from the command to the end of each part of the start, on the slowest rank."""
    memory: int
    """Peak memory in bytes of all its processes together, counting shared pages once."""

    def step_seconds(self) -> float:
        """Return the median seconds of the steps, without the first ones."""
        lines = (self.run_dir / paths.METRICS).read_text(encoding="utf-8").splitlines()
        events = [event for event in map(json.loads, lines) if event["event"] == "step"]
        return statistics.median(event["seconds"] for event in events[SLOW_FIRST:])


def run(settings: Mapping[str, object], expected_exit_code: int = 3) -> Watched:
    """Run run_llama31.sh with only these settings. Exits with an error on another exit code."""
    command = [
        "bash",
        str(REPOSITORY / "run_llama31.sh"),
        *arguments(settings),
    ]
    began, printed, memory = watch(command, expected_exit_code)
    name, *_ = (line.partition(": ")[2] for line in printed.splitlines() if line.startswith("run directory: "))
    return Watched(Path(name), parts(Path(name) / paths.RANK_LOGS, began), memory)


def watch(command: Sequence[str], expected_exit_code: int = 0, **more: str) -> tuple[datetime, str, int]:
    """Run a command with further variables; return its start time, output and peak memory."""
    began = datetime.now(timezone.utc)
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**environment(), **more},
    )
    memory = _Memory(process.pid)
    printed, _ = process.communicate()
    peak = memory.ended()
    if process.returncode != expected_exit_code:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{printed}")
    return began, printed, peak


def parts(logs: Path, began: datetime) -> dict[str, float]:
    """Read the seconds to the end of each part of the start from the ranks' logs."""
    found: dict[str, float] = {}
    for log in logs.glob("rank-*.log"):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            time, mark, part = line.partition(startup_log.MARK)
            if mark and part in startup_log.PARTS:
                seconds = (datetime.fromisoformat(time) - began).total_seconds()
                found[part] = max(found.get(part, 0), seconds)
    return found


class _Memory:
    """Measures the memory of a process and its descendants until the process has ended."""

    def __init__(self, pid: int):
        self._process = psutil.Process(pid)
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(1 / SAMPLES_PER_SECOND):
            self._peak = max(self._peak, self._now())

    def _now(self) -> int:
        held = 0
        try:
            for process in (self._process, *self._process.children(recursive=True)):
                held += process.memory_full_info().pss
        except psutil.Error:  # one of them has just ended
            return 0
        return held

    def ended(self) -> int:
        """Stop measuring and return the peak in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak
