"""Kills a run that saves often with SIGKILL, at random moments, and shows that nothing is lost by it.

    python3 -m dev.kill_saves DIRECTORY [--kills 30] [--seconds 6] [--seed 0] [--minutes M] [NAME=value ...]

A reference trains in one go. Then the same run, saving after each step, is started again and again, and each time it
is killed with all its processes, within some seconds of its first step. Each start must go on from the newest complete
checkpoint, and name and remove what a killed save left. At last the run is left alone: its final weights and optimizer
must be the reference's, to the bit. Settings are given as to run_llama31.sh, or come from the environment.
Called again with the same DIRECTORY it goes on with the kills that are left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from dev.support.runs import REPOSITORY
from dev.support.tensors import different, tensors
from llama31.checkpoint import store
from llama31.common.files import PARTIAL
from llama31.config import paths
from llama31.run_dir.events import TARGET_NOT_REACHED

STEPS_PER_KILL = 8  # of the reference: so many that the run is not over before it was killed often enough


@dataclass
class Job:
    """One start of the run, and what it printed."""

    launcher: subprocess.Popen
    printed: list[str] = field(default_factory=list)

    def read_until(self, words: str) -> None:
        """Reads on to a line that begins so; it is an error if there is none."""
        assert self.launcher.stdout
        for line in self.launcher.stdout:
            self.printed.append(line)
            if line.startswith(words):
                return
        raise SystemExit(f"the run ended without {words!r}:\n{''.join(self.printed)}")

    def kill(self) -> None:
        """Kills the launcher and all that it started, ranks and their writers too."""
        for pid in [self.launcher.pid, *descendants(self.launcher.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.launcher.communicate()


def descendants(pid: int) -> list[int]:
    """Ids of all processes that descend from one."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def start(root: Path, settings: list[str]) -> Job:
    """Starts the run, or goes on with it, in a directory of checkpoints."""
    command = ["bash", REPOSITORY / "run_llama31.sh", *settings, "SAVE_CKPT=1", f"CONTINUAL_CKPT={root}"]
    environment = {**os.environ, "LLAMA31_VENV": sys.prefix}
    return Job(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment))


def finish(root: Path, settings: list[str]) -> Job:
    """Runs to the end."""
    job = start(root, settings)
    rest, _ = job.launcher.communicate()
    job.printed.append(rest)
    if job.launcher.returncode != TARGET_NOT_REACHED:
        raise SystemExit(f"exit code {job.launcher.returncode}:\n{''.join(job.printed)}")
    return job


def check_start(job: Job, before: list[store.Checkpoint], leftovers: list[Path]) -> None:
    """Exit with an error unless the job resumed from the newest checkpoint and removed partial ones."""
    text = "".join(job.printed)
    run_dir = Path(text.partition("run directory: ")[2].partition("\n")[0])
    found = json.loads((run_dir / paths.START).read_text())["checkpoint"]
    expected = str(before[0].path) if before else ""
    if found != expected:
        raise SystemExit(f"resumed from {found or 'no checkpoint'}, not from {expected or 'none'}:\n{text}")
    for path in leftovers:
        if path.exists() or str(path) not in text:
            raise SystemExit(f"{path} was not named and removed:\n{text}")


def main() -> None:
    """Kills, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=6, help="from the first step, within which to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no kill is begun")
    options, settings = parser.parse_known_args()
    directory = options.directory.absolute()
    root, reference, tally = (directory / name for name in ("killed", "reference", "kills.txt"))
    directory.mkdir(parents=True, exist_ok=True)
    last_step = options.kills * STEPS_PER_KILL
    settings += [f"JOB_DIR={directory / 'runs'}", "SEEDS=1", f"STOP_AT_STEP={last_step}"]

    began = time.monotonic()
    if not store.listing(reference):
        finish(reference, settings)
    done = len(tally.read_text().splitlines()) if tally.is_file() else 0
    moments = [random.Random(options.seed + number).uniform(0, options.seconds) for number in range(options.kills)]
    for number, moment in enumerate(moments[done:], start=done + 1):
        if time.monotonic() - began > 60 * options.minutes:
            raise SystemExit(f"{number - 1} of {options.kills} kills; call again for the rest")
        before, leftovers = store.listing(root), list(root.glob(f"*{PARTIAL}"))
        job = start(root, [*settings, "SAVE_EVERY=1"])
        job.read_until("step ")
        check_start(job, before, leftovers)
        time.sleep(moment)
        if job.launcher.poll() is not None:
            raise SystemExit(f"the run was over before it was killed; more than {STEPS_PER_KILL} steps are needed")
        job.kill()
        newest = store.listing(root)
        within = ", within a save" if list(root.glob(f"*{PARTIAL}")) else ""
        said = f"kill {number}: {moment:.2f} s after a step{within}; newest {newest[0].path.name if newest else 'none'}"
        with tally.open("a", encoding="utf-8") as file:
            file.write(said + "\n")
        print(said, flush=True)
    before, leftovers = store.listing(root), list(root.glob(f"*{PARTIAL}"))
    check_start(finish(root, settings), before, leftovers)
    ours, theirs = store.listing(root)[0], store.listing(reference)[0]
    if ours.step != theirs.step or (names := different(tensors(ours.path), tensors(theirs.path))):
        raise SystemExit(f"{ours.path} is not {theirs.path}: {names if ours.step == theirs.step else 'another step'}")
    print(f"{options.kills} kills: weights and optimizer after step {last_step} are the reference's, to the bit")


if __name__ == "__main__":
    main()
