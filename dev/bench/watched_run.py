"""Runs of the product as a user starts them, and scripts beside them, watched from outside."""

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

SAMPLES_PER_SECOND = 2  # of the memory
SLOW_FIRST = 3  # steps: kernels are chosen, memory is allocated


@dataclass(frozen=True)
class Watched:
    """What was seen of one run."""

    run_dir: Path
    parts: dict[str, float]
    """Seconds from the command to the end of each part of the start, on the rank that was last there."""
    memory: int
    """Bytes: the most that all its processes held at once, what they share counted once."""

    def step_seconds(self) -> float:
        """Median of the steps but for the first ones."""
        lines = (self.run_dir / paths.METRICS).read_text(encoding="utf-8").splitlines()
        events = [event for event in map(json.loads, lines) if event["event"] == "step"]
        return statistics.median(event["seconds"] for event in events[SLOW_FIRST:])


def run(settings: Mapping[str, object], wanted_exit_code: int = 3) -> Watched:
    """Runs run_llama31.sh with these settings alone; ends this process where the run ends otherwise than wanted."""
    command = [
        "bash",
        str(REPOSITORY / "run_llama31.sh"),
        *arguments(settings),
    ]
    began, printed, memory = watch(command, wanted_exit_code)
    name, *_ = (line.partition(": ")[2] for line in printed.splitlines() if line.startswith("run directory: "))
    return Watched(Path(name), parts(Path(name) / paths.RANK_LOGS, began), memory)


def watch(command: Sequence[str], wanted_exit_code: int = 0, **more: str) -> tuple[datetime, str, int]:
    """Runs a command, with more variables; gives when it began, what it printed, and the memory it took."""
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
    if process.returncode != wanted_exit_code:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}\n{printed}")
    return began, printed, peak


def parts(logs: Path, began: datetime) -> dict[str, float]:
    """Seconds to the end of each part of the start, as the ranks' logs tell."""
    found: dict[str, float] = {}
    for log in logs.glob("rank-*.log"):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            time, mark, part = line.partition(startup_log.MARK)
            if mark and part in startup_log.PARTS:
                seconds = (datetime.fromisoformat(time) - began).total_seconds()
                found[part] = max(found.get(part, 0), seconds)
    return found


class _Memory:
    """Looks at the memory of a process and of all that it started, until it has ended."""

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
        except psutil.Error:  # one of them has ended meanwhile
            return 0
        return held

    def ended(self) -> int:
        """The most bytes that were seen."""
        self._over.set()
        self._thread.join()
        return self._peak
