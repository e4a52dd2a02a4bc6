"""Start runs for tests and read their output files."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checkout import REPOSITORY, SUPPORT

from dev.support import forked_ranks
from dev.support.runs import Run, arguments, environment
from llama31.launch import local, prepare, rank_command, run_directory
from llama31.plan.plan import Plan

TIMEOUT = 300  # seconds; a run of these takes half a minute at most
CUT_RUN: dict[str, Any] = {
    "SIZE": "tiny",
    "DEVICE": "cpu",
    "PRECISION": "fp32",
    "SEQ_LENGTH": 32,
    "GBS": 8,
    "MBS": 2,
    "MAX_LR": 1e-3,
    "WARMUP_STEPS": 9,
    "EVAL_SAMPLES": 12,
    "SEEDS": 1234,
}
"""Settings of runs that are cut into jobs and compared with uninterrupted ones."""


def exports_after(script: str, directory: Path = REPOSITORY, **exported: str) -> dict[str, str]:
    """What bash exports after a script that began with nothing but `exported`."""
    path = environment()["PATH"]
    command = ["env", "-i", f"PATH={path}", *(f"{name}={value}" for name, value in exported.items())]
    done = subprocess.run(
        [*command, "bash", "-euc", f"{script}\nenv -0"], cwd=directory, capture_output=True, text=True, check=True
    )
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    return {name: value for name, value in found.items() if name not in {"PWD", "OLDPWD", "SHLVL", "_", "PATH"}}


def call(*command: str | Path, cwd: Path = REPOSITORY, **exported: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end in our environment and `exported`, of which an empty value unsets a variable."""
    env = {name: value for name, value in {**environment(), **exported}.items() if value}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)


def finished(printed: str, exit_code: int) -> Run:
    """The run that printed this; the launcher names its directory."""
    directories = [line.partition("run directory: ")[2] for line in printed.splitlines() if "run directory: " in line]
    return Run(Path(directories[0] if directories else "/nonexistent"), printed, exit_code)


def run_llama31(settings: dict[str, Any], *options: str) -> Run:
    """Runs run_llama31.sh as a user does."""
    done = subprocess.run(
        ["bash", REPOSITORY / "run_llama31.sh", *options, *arguments(settings)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
        check=False,
    )
    return finished(done.stdout + done.stderr, done.returncode)


def forked_command(script: Path, *arguments: str) -> list[str | Path]:
    """Command of a run as `llama31 run`'s whose ranks are forked and run a script."""
    return [sys.executable, forked_ranks.__file__, "run", forked_ranks.server(), script, *arguments]


def run_forked(settings: dict[str, Any], *options: str, script: Path = REPOSITORY / "pretrain_llama31.py") -> Run:
    """As `run_llama31`, but the ranks, which run a script, do not wait for the import of NeMo (forked_ranks.py)."""
    done = subprocess.run(
        forked_command(script, *options, *arguments(settings)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env={**environment(), "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    return finished(done.stdout + done.stderr, done.returncode)


def prepared_run(settings: dict[str, Any]) -> tuple[Path, list[str], dict[str, str]]:
    """A run directory as its ranks find it, their command and their environment."""
    resolved, data = prepare.checked(arguments(settings), {})
    run_dir = run_directory.make(resolved.settings)
    command = local.command(resolved.settings, run_dir)
    of_ranks = rank_command.environment(resolved.settings, os.environ)
    run_directory.begin(run_dir, Plan(resolved, data, command), [], command, of_ranks)
    return run_dir, command, of_ranks


def train_from_weights(settings: dict[str, Any], weights: Path) -> Run:
    """Trains from the weights in a directory; makes that directory, of its own initial weights, if it is not there."""
    run_dir, command, of_ranks = prepared_run(settings)
    script = command.index(str(REPOSITORY / "pretrain_llama31.py"))
    command = [*command[:script], str(SUPPORT / "ranks_from_weights.py"), str(run_dir), str(weights)]
    command = forked_ranks.instead_of_torchrun(command, forked_ranks.server())
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=of_ranks,
        check=False,
    )
    run = Run(run_dir, done.stdout + done.stderr, done.returncode)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{run.printed[-2000:]}\n{run.logs()}"
    return run


def stopped_by(stop: Callable[[subprocess.Popen, list[int]], object], settings: dict[str, Any]) -> Run:
    """A run that `stop(launcher, process ids of the ranks)` was called on after its first step."""
    launcher = subprocess.Popen(
        ["bash", REPOSITORY / "run_llama31.sh", *arguments(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    try:
        printed = ""
        for line in launcher.stdout:
            printed += line
            if line.startswith("step 1/"):
                break
        stop(launcher, ranks_of(launcher.pid))
        rest, _ = launcher.communicate(timeout=TIMEOUT)
    finally:
        launcher.kill()
    return finished(printed + rest, launcher.returncode)


def ranks_of(launcher: int) -> list[int]:
    """Process ids of a launcher's ranks, in their order: children of its child, torchrun."""

    def children(pid: int) -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    (torchrun,) = children(launcher)
    return sorted(children(torchrun))
