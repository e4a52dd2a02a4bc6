"""Run on this machine, submit to Slurm, or show the plan: the verb `run`, which run_llama31.sh calls."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llama31.common import training_packages
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.launch import local, prepare
from llama31.launch.prepare import Prepared
from llama31.launch.slurm import submit
from llama31.launch.torchrun import Early
from llama31.run_dir.events import INTERRUPTED, worst
from llama31.settings import Settings

RUN_DIR = Path("RUN_DIR")  # placeholder in a plan, for a directory that only a run creates


def run(arguments: Sequence[str]) -> int:
    """Run, submit or show the run that environment and arguments ask for; return the exit code."""
    options, assignments, allowed = _parse(arguments)
    is_dry = "--dryrun" in options
    given = [argument for argument in arguments if argument != "--dryrun"]
    resolved, data, missing = prepare.plannable(assignments, os.environ)
    if missing and not is_dry:
        raise UserError(missing)
    settings = resolved.settings
    if "--wait" in options and not settings.partition:
        raise UserError("--wait: only with PARTITION; a run on this machine always waits")
    if not is_dry:
        if not settings.partition or paths.job_python(settings) == sys.executable:
            training_packages.require("run")
        prepare.refuse_missing_gpus(settings)
    command = submit.command(settings, RUN_DIR) if settings.partition else local.command(settings, RUN_DIR)
    runs_here = not is_dry and not settings.partition
    with contextlib.ExitStack() as stack:
        early = local.early(settings, command) if runs_here else None
        if early:
            stack.enter_context(early)
        experiments = [
            prepare.prepare(experiment, data, allowed, command, thorough=runs_here)
            for experiment in prepare.experiments(resolved, draws=not is_dry)
        ]
        if runs_here:
            return worst(_run_here(experiments, given, early))
    if is_dry:
        code = _show(settings, experiments, allowed)
        if missing:  # after the plan: who plans a machine has no data yet
            sys.stdout.flush()
            raise UserError(missing)
        return code
    return submit.submit(experiments, given, allowed, wait="--wait" in options)


def _parse(arguments: Sequence[str]) -> tuple[set[str], list[str], list[str]]:
    """Return the options without value, the arguments that are settings, and the names after --allow-change."""
    options, others, names = set(), [], []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, name = argument.partition("=")
        if argument in ("--dryrun", "--wait"):
            options.add(argument)
        elif option != "--allow-change":
            others.append(argument)
        elif not (name := name if equals else next(remaining, "")):
            raise UserError("--allow-change: name the setting that may change, for example --allow-change GBS")
        else:
            names.append(name)
    return options, others, names


def _show(requested: Settings, experiments: Sequence[Prepared], allowed: Sequence[str]) -> int:
    """Print the plan of the first unfinished experiment, and a preview of all submissions; return the exit code."""
    codes = [prepared.say_finished() for prepared in experiments if prepared.outcome]
    unfinished = [prepared.plan for prepared in experiments if not prepared.outcome]
    if not unfinished:
        return worst(codes)
    prepare.check_space(experiments)
    plan = unfinished[0]
    print(plan.with_settings(nexp=requested.nexp, seeds=requested.seeds or plan.settings.seeds).text(), end="")
    if requested.partition:
        print("\n" + submit.preview(unfinished, RUN_DIR, allowed), end="")
    return 0


def _run_here(experiments: Sequence[Prepared], given: Sequence[str], early: Early | None) -> list[int]:
    """Run the experiments in order; return their exit codes. An interrupted one ends the series."""
    codes: list[int] = []
    for number, prepared in enumerate(experiments, 1):
        if prepared.outcome:
            codes.append(prepared.say_finished())
            continue
        if len(experiments) > 1:
            print(f"experiment {number} of {len(experiments)}: seed {prepared.plan.settings.seeds}", flush=True)
        prepared.make_room()
        codes.append(local.run(prepared.plan, given, early))
        if codes[-1] == INTERRUPTED:
            break
    return codes
