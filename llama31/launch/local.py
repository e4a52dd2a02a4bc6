"""Run on this machine: start the ranks with torchrun, forward signals to them, report the outcome."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from llama31.common.files import failures_named
from llama31.config import paths
from llama31.launch import node_steps, out_of_memory, prepare, rank_command, run_directory, signals, torchrun
from llama31.launch.torchrun import Early
from llama31.plan.plan import Plan
from llama31.run_dir import record
from llama31.settings import Settings

TORCHRUN = "torchrun"
"""Directory for torchrun's own files, empty ones, which it would leave in the directory of temporary files."""


def command(settings: Settings, directory: Path) -> list[str]:
    """Return the torchrun command with one process for each rank."""
    _, *rank = rank_command.command(directory)
    return [*torchrun.command(settings.gpus_per_node, directory / paths.RANK_LOGS / TORCHRUN), *rank]


def early(settings: Settings, command: Sequence[str]) -> Early | None:
    """Start what becomes the torchrun of a run with these settings; None if the command is not torchrun's."""
    if tuple(command[: len(torchrun.TORCHRUN)]) != torchrun.TORCHRUN:
        return None
    return Early(settings.gpus_per_node, rank_command.environment(settings, os.environ))


def run(plan: Plan, arguments: Sequence[str], early: Early | None) -> int:
    """Make the run directory, start the ranks, wait and print the outcome. Returns the exit code.

    `early` becomes torchrun, if it still can.
    """
    plan = plan.with_settings(seeds=plan.settings.seeds.strip() or prepare.draw_seed())
    settings = plan.settings
    directory = run_directory.make(settings)
    started, environment = command(settings, directory), rank_command.environment(settings, os.environ)
    with failures_named(directory):
        run_directory.begin(directory, plan, arguments, started, environment)
        print(plan.summary() + f"  seed {settings.seeds}\nrun directory: {directory}\n", flush=True)
        log = directory / paths.RANK_LOGS / "torchrun.log"
        kills = out_of_memory.kernel_kills()
        with record.claim(directory) as held, log.open("wb") as errors:
            if refusal := node_steps.prepare(directory, settings):
                return run_directory.end(directory, settings, refusal.exit_code, "torchrun", log=log)
            with tempfile.TemporaryDirectory(prefix="llama31-") as own:
                ranks = torchrun.start(started, environment, Path(own, "store"), errors, held, early)
                returncode = signals.wait(ranks, directory)
        shutil.rmtree(log.with_name(TORCHRUN), ignore_errors=True)
        report = out_of_memory.kernel_report(log, kills)
        return run_directory.end(directory, settings, returncode, "torchrun", log=log, out_of_memory=report)
