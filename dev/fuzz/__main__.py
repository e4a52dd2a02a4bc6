"""Fuzz what reads files of others: python3 -m dev.fuzz [--target NAME] [--minutes N] [--seed N] ...

Each target reads changed copies of a small corpus, for so many minutes of CPU time. An input is right if the product
succeeds or fails in one line; a finding is anything else: another exception, more than 10 s or 1 GB, code that is run,
a process or connection that is made, a file that is written outside the target's own directory. Each finding is printed
with the command that repeats it. A tally file keeps minutes, inputs and findings, so that a later call continues.

python3 -m dev.fuzz --target NAME --seed N --only NUMBER    reads one input, and leaves it in the sandbox
"""

import argparse
import contextlib
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dev.fuzz.targets import TARGETS
from dev.support.runs import REPOSITORY

MAKER = REPOSITORY / "tests" / "support" / "fuzz_corpus.py"
SILENT = 60.0  # seconds without an input's end after which a worker is killed: hangs that no Python signal ends
STARTS = 300.0  # seconds that a worker may take to import


def main() -> int:
    """Return 1 if there were findings."""
    parser = argparse.ArgumentParser(prog="python3 -m dev.fuzz", description="Fuzz what reads files of others.")
    parser.add_argument("--target", choices=TARGETS, help="default: all, one after the other")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes of each target in all")
    parser.add_argument("--inputs", type=int, default=10**9, help="inputs of each target in all, if fewer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="read one input again")
    parser.add_argument("--tally", type=Path, default=Path("fuzz.json"), help="file with what was done so far")
    parser.add_argument("--corpus", type=Path, help="directory with the corpus; default: make it")
    parser.add_argument("--sandbox", type=Path, help="empty directory to work in; default: a temporary one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llama31-fuzz-") as temporary:
        corpus = (given.corpus or Path(temporary, "corpus")).absolute()
        sandbox = (given.sandbox or Path(temporary, "sandbox")).absolute()
        sandbox.mkdir(exist_ok=True)
        wanted = [given.target] if given.target else list(TARGETS)
        if missing := [name for name in wanted if not (corpus / name).is_dir()]:
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            subprocess.run([sys.executable, MAKER, corpus, *missing], check=True, cwd=REPOSITORY, env=environment)
        if given.only is not None:
            campaign = Campaign(given.target, given.seed, corpus, sandbox, {})
            campaign.run(["--first", str(given.only), "--count", "1"])
            return 1 if campaign.tally["findings"] else 0
        tallies = json.loads(given.tally.read_text()) if given.tally.exists() else {}
        for name in wanted:
            tally = tallies.setdefault(f"{name} {given.seed}", {})
            campaign = Campaign(name, given.seed, corpus, sandbox, tally)
            while (left := 60 * given.minutes - campaign.tally["cpu_seconds"]) > 0:
                first = campaign.tally["next"]
                if first >= given.inputs:
                    break
                how_long = ["--first", first, "--count", given.inputs - first, "--cpu-seconds", left]
                campaign.run([str(word) for word in how_long])
                given.tally.write_text(json.dumps(tallies, indent=2) + "\n")
            print(campaign.summary(), flush=True)
    return 1 if any(tally["findings"] for tally in tallies.values()) else 0


class Campaign:
    """Workers of one target and seed, one after the other; `tally` is updated."""

    def __init__(self, target: str, seed: int, corpus: Path, sandbox: Path, tally: dict[str, Any]):
        self.target, self.seed, self.corpus, self.sandbox = target, seed, corpus, sandbox
        self.tally = tally
        for name, start in (("next", 0), ("cpu_seconds", 0.0), ("findings", {})):
            tally.setdefault(name, start)

    def run(self, how_long: list[str]) -> None:
        """Run a worker to its end, or until it dies of an input. Raises RuntimeError if it cannot start."""
        (self.sandbox / "current").unlink(missing_ok=True)
        options = {"--target": self.target, "--seed": self.seed, "--corpus": self.corpus, "--sandbox": self.sandbox}
        command = [sys.executable, "-m", "dev.fuzz.worker", *[str(word) for pair in options.items() for word in pair]]
        errors = self.sandbox.with_name("worker.log")
        before = self.tally["cpu_seconds"]
        with (
            errors.open("wb") as log,
            subprocess.Popen([*command, *how_long], stdout=subprocess.PIPE, stderr=log, cwd=REPOSITORY) as worker,
        ):
            assert worker.stdout
            with selectors.DefaultSelector() as ready:
                ready.register(worker.stdout, selectors.EVENT_READ)
                started, buffered = False, b""
                while True:
                    if not ready.select(SILENT if started else STARTS):
                        if started and self._has_moved():
                            continue
                        worker.kill()
                        break
                    more = worker.stdout.read1(1 << 16)  # type: ignore[attr-defined]
                    if not more:
                        break
                    started = True
                    *lines, buffered = (buffered + more).split(b"\n")
                    for line in lines:
                        self._take(json.loads(line), before)
            code = worker.wait()
        current = self.sandbox / "current"
        if code and not current.exists():
            raise RuntimeError(f"{self.target}: the worker cannot start:\n{errors.read_text()[-3000:]}")
        if code:
            number = int(current.read_text())
            said = errors.read_text(errors="replace").strip().splitlines()[-1:]
            self._found(f"the process ends with {code}: {''.join(said)[:200]}", number, [])
            self.tally["next"] = number + 1
            self.tally["cpu_seconds"] += 10.0  # so that a worker that always dies comes to an end

    def _has_moved(self) -> bool:
        """Return whether another input is being read than when this was last asked."""
        with contextlib.suppress(OSError):
            last, self._current = getattr(self, "_current", ""), (self.sandbox / "current").read_text()
            return last != self._current
        return False

    def _take(self, said: dict[str, Any], before: float) -> None:
        if "finding" in said:
            self._found(said["finding"], said["input"], said["changes"])
        else:
            self.tally["next"], self.tally["cpu_seconds"] = said["next"], before + said["cpu_seconds"]

    def _found(self, what: str, number: int, changes: list[str]) -> None:
        """Print a finding of a new kind."""
        kind = re.sub(r"\d+|'[^']*'|/\S+", "", what.partition(": ")[0] if " at " in what else what)[:120]
        kind = what.partition(": ")[0] if " at " in what else kind
        known = self.tally["findings"].setdefault(kind, {"times": 0, "input": number, "says": what, "changes": changes})
        known["times"] += 1
        if known["times"] == 1:
            print(f"{self.target}: {what}\n    {'; '.join(changes)}\n    {self.command(number)}", flush=True)

    def command(self, number: int) -> str:
        """Return the command that repeats an input."""
        return f"python3 -m dev.fuzz --target {self.target} --seed {self.seed} --only {number}"

    def summary(self) -> str:
        """Return a line with what was done."""
        minutes, kinds = self.tally["cpu_seconds"] / 60, len(self.tally["findings"])
        inputs = f"{self.tally['next']:,} inputs in {minutes:.1f} CPU minutes"
        return f"{self.target}, seed {self.seed}: {inputs}, {kinds} kinds of findings"


if __name__ == "__main__":
    sys.exit(main())
