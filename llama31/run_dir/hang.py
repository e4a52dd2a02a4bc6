"""End a rank that makes no progress: write where it stands, wait for the others to do so, and store the outcome.

Standard library only, so that the watch begins before anything heavy is imported.
"""

import faulthandler
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from llama31.common.json_files import read_json, write_json
from llama31.config import paths
from llama31.run_dir import record
from llama31.run_dir.events import ABORTED, FAILED, Outcome

CHECKS = 20  # in HANG_MINUTES
PATIENCE = 20.0  # seconds to wait for the other ranks' files, and for py-spy
LAST_RESORT = 60.0  # seconds after HANG_MINUTES when a rank whose interpreter is blocked is ended
EXIT_CODE = 1


@dataclass(frozen=True)
class Standing:
    """Where a rank stood when it made no progress."""

    rank: int
    host: str
    device: str
    after: str
    """The last progress: a step, a part of an evaluation or of the start."""
    where: str
    """Innermost frame of the main thread, and the one outside of torch that led there."""


def file_of(run_dir: Path, rank: int) -> Path:
    """Return the file for where a rank stood."""
    return run_dir / paths.RANK_LOGS / f"hang-rank-{rank}.json"


def standings(run_dir: Path) -> list[Standing]:
    """Return where the ranks of a run stood, in their order; none if it did not hang. Damaged files are left out."""
    found = []
    for file in (run_dir / paths.RANK_LOGS).glob("hang-rank-*.json"):
        with suppress(Exception):
            found.append(read_json(Standing, file))
    return sorted(found, key=lambda one: one.rank)


def report(run_dir: Path) -> list[str]:
    """Return a line for each place where ranks stood, the fewest ranks first: they are the likely reason."""
    places: dict[tuple[str, str], list[Standing]] = {}
    for one in standings(run_dir):
        places.setdefault((one.where, one.after), []).append(one)
    lines = []
    for (where, after), ranks in sorted(places.items(), key=lambda item: len(item[1])):
        named = ", ".join(f"{one.rank} ({one.host}, {one.device})" for one in ranks[:4])
        more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
        lines.append(f"rank{'s' if len(ranks) > 1 else ''} {named}{more}: {after}, in {where}")
    return lines


class Watch:
    """Watch this rank in a thread of its own. `progress` must be called at least every `minutes`.

    Otherwise the stacks of all threads are written to standard error, the rank's log, by faulthandler and by py-spy if
    it is installed. Once all ranks have said where they stand, or 20 s later, the outcome is stored, `close` is called
    with it, and the process exits with 1, so that the launcher ends the job. `step` returns the last step and the
    samples consumed.
    """

    def __init__(
        self,
        run_dir: Path,
        minutes: float,
        *,
        close: Callable[[Outcome], None],
        step: Callable[[], tuple[int, int]],
    ):
        self.run_dir = run_dir
        self.minutes = minutes
        self.rank = int(os.environ.get("RANK", "0"))
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        self._close = close
        self._step = step
        self._stopped = threading.Event()
        self.progress("the start")
        threading.Thread(target=self._watch, name="hang watch", daemon=True).start()

    def progress(self, what: str) -> None:
        """Record progress: `what` names it, such as step 12."""
        self._last, self._at = what, time.monotonic()
        # Ends the process from C, for the case that the main thread holds the interpreter's lock.
        faulthandler.dump_traceback_later(60 * self.minutes + LAST_RESORT, exit=True)

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        limit = 60 * self.minutes
        while not self._stopped.wait(limit / CHECKS):
            if time.monotonic() - self._at > limit:
                self._end()

    def _end(self) -> None:
        """Write where this rank stands and end it, also if one of these steps fails."""
        try:
            print(
                f"no progress for {self.minutes:g} minutes after {self._last}; all threads:",
                file=sys.stderr,
                flush=True,
            )
            standing = Standing(self.rank, socket.gethostname(), _device(), f"after {self._last}", where())
            faulthandler.dump_traceback(all_threads=True)
            write_json(file_of(self.run_dir, self.rank), standing)
            _py_spy()
            self._wait_for_others()
            step, samples = self._step()
            outcome = Outcome(ABORTED, self._reason(), FAILED, step, samples)
            self._close(record.store_outcome(self.run_dir, outcome))
        finally:
            os._exit(EXIT_CODE)

    def _wait_for_others(self) -> None:
        until = time.monotonic() + PATIENCE
        while len(standings(self.run_dir)) < self.ranks and time.monotonic() < until:
            time.sleep(0.1)

    def _reason(self) -> str:
        lines = report(self.run_dir)
        silent = self.ranks - len(standings(self.run_dir))
        text = f"no progress for HANG_MINUTES={self.minutes:g}; {'; '.join(lines[:2])}"
        text += f"; {silent} ranks did not answer" if silent else ""
        return f"{text}; the stacks are in {self.run_dir / paths.RANK_LOGS}"


def where() -> str:
    """Return where the main thread stands: function, file and line, and the caller outside of torch and this module."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = _outer(frame)
    if not stack:
        return "no Python code"
    place = stack[-1]
    caller = next((one for one in reversed(stack[:-1]) if "/torch/" not in one.filename), None)
    in_torch = "/torch/" in place.filename
    return _named(place) + (f", called by {_named(caller)}" if in_torch and caller else "")


def _outer(frame: FrameType | None) -> list[traceback.FrameSummary]:
    return list(traceback.extract_stack(frame)) if frame else []


def _named(frame: traceback.FrameSummary) -> str:
    file = frame.filename
    for root in ("/site-packages/", f"{paths.REPOSITORY}/"):
        file = file.rpartition(root)[2]
    return f"{frame.name} ({file}:{frame.lineno})"


def _device() -> str:
    on_cpu = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return "CPU" if on_cpu else f"GPU {os.environ.get('LOCAL_RANK', '0')}"


def _py_spy() -> None:
    """Write the stacks with those of native code, if py-spy is installed and may read this process."""
    if program := shutil.which("py-spy"):
        with suppress(OSError, subprocess.SubprocessError):
            command = [program, "dump", "--native", "--pid", str(os.getpid())]
            subprocess.run(command, stdout=sys.stderr, stderr=sys.stderr, timeout=PATIENCE, check=False)
