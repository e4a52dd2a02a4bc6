"""Kill a run that saves checkpoints often with SIGKILL at random moments, and check that nothing is lost.

    python3 -m dev.kill_saves DIRECTORY [--kills 30] [--seconds 6] [--seed 0] [--minutes M] [NAME=value ...]

A reference run trains without interruption. The same run, saving after each step, is then started repeatedly and killed
with all its processes, within some seconds of its first step. Each start must resume from the newest complete
checkpoint, and remove and report partial ones. The last start is not killed: its final weights and optimizer state must
equal the reference's to the bit. Settings are given as for run_llama31.sh, or come from the environment.
Another call with the same DIRECTORY continues with the remaining kills.
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

STEPS_PER_KILL = 8  # of the reference: enough that the run does not end before the last kill


@dataclass
class Job:
    """A start of the run and its output."""

    launcher: subprocess.Popen
    printed: list[str] = field(default_factory=list)

    def read_until(self, words: str) -> None:
        """Read output up to a line that begins with `words`. Exits with an error if there is none."""
        assert self.launcher.stdout
        for line in self.launcher.stdout:
            self.printed.append(line)
            if line.startswith(words):
                return
        raise SystemExit(f"the run ended without {words!r}:\n{''.join(self.printed)}")

    def kill(self) -> None:
        """Kill the launcher and all its descendants, including ranks and their checkpoint writers."""
        for pid in [self.launcher.pid, *descendants(self.launcher.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.launcher.communicate()


def descendants(pid: int) -> list[int]:
    """Return the ids of all descendants of a process."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def start(root: Path, settings: list[str]) -> Job:
    """Start the run, or resume it, with a directory of checkpoints."""
    command = ["bash", REPOSITORY / "run_llama31.sh", *settings, "SAVE_CKPT=1", f"CONTINUAL_CKPT={root}"]
    environment = {**os.environ, "LLAMA31_VENV": sys.prefix}
    return Job(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment))


def finish(root: Path, settings: list[str]) -> Job:
    """Run to the end. Exits with an error if the run fails."""
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
    """Run the campaign and compare the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=6, help="kill within this time after the first step")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no further kill after this time")
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
            raise SystemExit(f"{number - 1} of {options.kills} kills; repeat the command for the rest")
        before, leftovers = store.listing(root), list(root.glob(f"*{PARTIAL}"))
        job = start(root, [*settings, "SAVE_EVERY=1"])
        job.read_until("step ")
        check_start(job, before, leftovers)
        time.sleep(moment)
        if job.launcher.poll() is not None:
            raise SystemExit(f"the run ended before it was killed; increase STEPS_PER_KILL={STEPS_PER_KILL}")
        job.kill()
        newest = store.listing(root)
        within = ", during a save" if list(root.glob(f"*{PARTIAL}")) else ""
        said = f"kill {number}: {moment:.2f} s after a step{within}; newest {newest[0].path.name if newest else 'none'}"
        with tally.open("a", encoding="utf-8") as file:
            file.write(said + "\n")
        print(said, flush=True)
    before, leftovers = store.listing(root), list(root.glob(f"*{PARTIAL}"))
    check_start(finish(root, settings), before, leftovers)
    ours, theirs = store.listing(root)[0], store.listing(reference)[0]
    if ours.step != theirs.step or (names := different(tensors(ours.path), tensors(theirs.path))):
        reason = names if ours.step == theirs.step else "another step"
        raise SystemExit(f"{ours.path} differs from {theirs.path}: {reason}")
    print(f"{options.kills} kills: weights and optimizer state after step {last_step} equal the reference's")


if __name__ == "__main__":
    main()
