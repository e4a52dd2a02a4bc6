"""One try: a command under a fault, the judgement, and the command again without it."""

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dev.faults import disks, judge, processes, shim
from dev.faults.disks import Disk
from dev.faults.fault import FILLED, Fault, calls_of
from dev.faults.judge import State
from dev.faults.processes import Ended
from dev.faults.target import Target
from dev.support import forked_ranks
from dev.support.runs import REPOSITORY, environment

STOP_SECONDS = 2.0
RANKS = "ranks"
"""Directory beside the tries' for the socket of a process that forks ranks."""


@dataclass(frozen=True)
class Undisturbed:
    """What a command does without a fault."""

    before: State
    right: State
    calls: Mapping[tuple[str, str], int]
    """Call and pattern of its path -> how often."""
    written: tuple[int, int]
    """Bytes and files that it adds."""
    seconds: float


@dataclass
class Verdict:
    """What came of a try."""

    struck: bool
    """Whether the command made the call at which the fault strikes."""
    code: int
    message: str
    seconds: float
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """The directories of a target's tries."""

    root: Path
    library: Path
    stop_seconds: float = STOP_SECONDS
    keeps: bool = False
    server: int | None = None
    """Process that forks ranks."""

    @property
    def prepared(self) -> Path:
        """The inputs; copied for each try."""
        return self.root / "prepared"

    @property
    def kept(self) -> Path:
        """What a command left under a fault, if it `keeps` that."""
        return self.root / "kept"

    @property
    def work(self) -> Path:
        """Where commands run. The same for all tries: paths are part of some results."""
        return self.root / "work"


def prepare(target: Target, place: Place) -> None:
    """Make the inputs, unless an earlier campaign did."""
    if not place.prepared.exists():
        partial = place.root / "prepared.new"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        target.prepare(partial)
        partial.rename(place.prepared)


@contextmanager
def served(target: Target, place: Place) -> Iterator[Place]:
    """Yield the place with a process that forks ranks beside it, if the target has such."""
    if not target.ranks_import:
        yield place
        return
    directory = place.root / RANKS
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    file = place.root / "fault"
    file.write_text("")
    of_server = {**_clean(), **shim.variables(place.library, file)}
    server = forked_ranks.started(directory, of_server, target.ranks_import)
    try:
        yield replace(place, server=server.pid)
    finally:
        server.communicate()


def undisturbed(target: Target, place: Place) -> Undisturbed:
    """Return what the command does without a fault, from an earlier campaign in the same directory or by two runs.

    Exits with an error if the command fails, or gives two results.
    """
    file = place.root / "undisturbed.json"
    if file.exists():
        return _loaded(file)
    states = []
    for _ in range(2):
        with disks.mounted(None, place.prepared, place.work):
            before = judge.state_of(target, place.work)
            ended = _run(target, place, None)
            if ended.code != target.code or ended.left or ended.timed_out:
                raise SystemExit(
                    f"{target.name}: exit code {ended.code}, left {ended.left}:\n{ended.errors}{ended.printed}"
                )
            states.append(judge.state_of(target, place.work, ended))
            calls: Counter[tuple[str, str]] = calls_of(_log(place).read_text())
            written = _bytes_and_files(place.work), _bytes_and_files(place.prepared)
    if lines := list(judge.differences(*states)):
        raise SystemExit(f"{target.name}: two undisturbed runs differ: {lines}")
    added = written[0][0] - written[1][0], written[0][1] - written[1][1]
    found = Undisturbed(before, states[0], calls, added, ended.seconds)
    stored = {**asdict(found), "calls": [[call, path, count] for (call, path), count in calls.items()]}
    file.write_text(json.dumps(stored, indent=1))
    return found


def _loaded(file: Path) -> Undisturbed:
    stored = json.loads(file.read_text())
    calls = {(call, path): count for call, path, count in stored["calls"]}
    before, right = State(**stored["before"]), State(**stored["right"])
    bytes_added, files_added = stored["written"]
    return Undisturbed(before, right, calls, (bytes_added, files_added), stored["seconds"])


def attempt(target: Target, place: Place, fault: Fault, normal: Undisturbed) -> Verdict:
    """Run the command under the fault, and again without it if it failed; judge both."""
    with disks.mounted(fault, place.prepared, place.work) as disk:
        ended = _run(target, place, fault, disk)
        if place.keeps:
            shutil.rmtree(place.kept, ignore_errors=True)
            shutil.copytree(place.work, place.kept, symlinks=True)
        struck = [path for _, path in shim.strikes(_log(place))]
        if fault.action == "read-only" and struck:
            disk.repair()  # what the disk holds counts, not what was in memory
        happened = bool(struck)
        if fault.action in FILLED:
            happened = disk.is_full() or ended.code != target.code
        lines = ended.errors.strip() or ended.printed.strip()
        verdict = Verdict(happened, ended.code, lines.splitlines()[-1] if lines else "", ended.seconds)
        if not happened:
            return verdict
        found = judge.state_of(target, place.work, ended)
        verdict.problems += judge.of_words(target, fault, struck, ended)
        verdict.problems += judge.of_result(target, normal.right, found, ended)
        if ended.code == target.code and not verdict.problems:
            return verdict
        verdict.problems += judge.of_files(target, normal.before, normal.right, place.work)
        if fault.action in FILLED:
            disk.repair()
        if ended.code != target.code:
            again = _run(target, place, None)
            verdict.problems += judge.of_repeat(target, normal.right, place.work, again)
            verdict.seconds += again.seconds
    return verdict


def _log(place: Place) -> Path:
    return place.root / "calls"


def _run(target: Target, place: Place, fault: Fault | None, disk: Disk | None = None) -> Ended:
    log, file = _log(place), place.root / "fault"
    shim.strike(file, place.work, log, fault)
    variables = shim.variables(place.library, file)
    of_command = {**_clean(), "PYTHONPATH": str(REPOSITORY), **target.environment, **variables}
    answered = 0

    def watch(tree: list[int]) -> None:
        """Do what a paused process waits for."""
        nonlocal answered
        if not fault or not shim.pauses(fault) or not log.stat().st_size:
            return
        for pid, _ in shim.strikes(log)[answered:]:
            if not processes.is_stopped(pid):
                return
            answered += 1
            victims = {"kill": [pid], "kill-all": tree, "kill-first": tree[:1]}.get(fault.action, [])
            if fault.action == "read-only":
                assert disk
                disk.abort()
            elif fault.action == "stop":
                time.sleep(place.stop_seconds)
            for victim in victims:
                processes.signal_to(victim, signal.SIGKILL)
            processes.signal_to(pid, signal.SIGCONT)

    with target.beside(place.work):
        command = target.command(place.work)
        timeout = target.timeout + place.stop_seconds
        outputs = place.root / ("undisturbed" if fault is None else "faulted")
        outputs.mkdir(exist_ok=True)
        return processes.run(command, REPOSITORY, of_command, outputs, timeout, watch, place.server)


def _clean() -> dict[str, str]:
    """Return this environment without settings and without a shim."""
    names = {name: value for name, value in environment().items() if not name.startswith("FAULTS")}
    return {name: value for name, value in names.items() if name != "LD_PRELOAD"}


def _bytes_and_files(directory: Path) -> tuple[int, int]:
    paths = [path for path in directory.rglob("*") if not path.is_symlink()]
    return sum(path.stat().st_size for path in paths if path.is_file()), len(paths)
