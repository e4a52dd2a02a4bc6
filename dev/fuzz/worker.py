"""Read changed inputs of one target in a process of its own: python3 -m dev.fuzz.worker; see dev.fuzz.__main__.

Prints a JSON line for each finding, and one for each block of inputs. `sandbox/current` holds the number of the input
that is being read, for the case that this process dies of it.
"""

import argparse
import json
import random
import shutil
import sys
import time
import traceback
from pathlib import Path

from dev.fuzz.guard import Guard, use_sandbox
from dev.fuzz.mutation import change_directory
from dev.fuzz.targets import TARGETS, Target
from llama31.common.errors import UserError

BLOCK = 20  # inputs between two reports
CODE = Path(__file__).resolve().parents[2]


def main() -> None:
    """Read inputs from --first on until the CPU time is used up."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--cpu-seconds", type=float, default=1e9)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--sandbox", type=Path, required=True)
    given = parser.parse_args()
    target = TARGETS[given.target]
    target.load()
    use_sandbox(given.sandbox)
    inputs = sorted((given.corpus / given.target).iterdir())
    for unchanged in inputs:  # what these import and compile counts as loaded
        _prepare(given.sandbox, unchanged)
        target.read(given.sandbox / "in", given.sandbox / "out")
    guard = Guard(given.sandbox)
    began = time.process_time()
    for number in range(given.first, given.first + given.count):
        (given.sandbox / "current").write_text(str(number))
        chance = random.Random(f"{given.target}/{given.seed}/{number}")
        _prepare(given.sandbox, chance.choice(inputs))
        done = change_directory(given.sandbox / "in", chance)
        for problem in _problems(target, guard, given.sandbox):
            _report(finding=problem, input=number, changes=done)
        used = time.process_time() - began
        if number % BLOCK == 0 or used > given.cpu_seconds or number == given.first + given.count - 1:
            _report(next=number + 1, cpu_seconds=used)
        if used > given.cpu_seconds:
            break


def _prepare(sandbox: Path, source: Path) -> None:
    for name in ("in", "out"):
        shutil.rmtree(sandbox / name, ignore_errors=True)
    shutil.copytree(source, sandbox / "in", symlinks=True)
    (sandbox / "out").mkdir()


def _problems(target: Target, guard: Guard, sandbox: Path) -> list[str]:
    """Return what happens that must not when a target reads the changed input."""
    raised = ""
    with guard.watching() as found:
        try:
            target.read(sandbox / "in", sandbox / "out")
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - Rust's panics derive from it
            raised = _where(error)
    executed = [f"creates {path.name}" for path in (sandbox / "cwd").iterdir()]
    shutil.rmtree(sandbox / "cwd" / "executed", ignore_errors=True)
    return [*([raised] if raised else []), *found, *executed]


def _where(error: BaseException) -> str:
    """Return type, text and the innermost line of this repository."""
    ours = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(CODE / "llama31"))
    ]
    place = f" at {Path(ours[-1].filename).relative_to(CODE)}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())[:200]}"


def _report(**values: object) -> None:
    sys.__stdout__.write(json.dumps(values) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
