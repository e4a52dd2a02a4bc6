"""run_llama31.sh: settings -> a run here, a submission to Slurm, or with --dryrun the plan of it."""

import os
from collections.abc import Sequence
from pathlib import Path

from llama31.common.errors import UserError
from llama31.launch import local, prepare
from llama31.launch.prepare import Prepared
from llama31.launch.slurm import submit
from llama31.run_dir.events import INTERRUPTED, worst
from llama31.settings import Settings

RUN_DIR = Path("RUN_DIR")  # stands in a plan for the directory that a run makes


def main(arguments: Sequence[str]) -> int:
    """Runs, submits or shows what the environment and the arguments ask for; gives the exit code."""
    options, assignments, allowed = _parted(arguments)
    is_dry = "--dryrun" in options
    given = [argument for argument in arguments if argument != "--dryrun"]
    resolved, data = prepare.checked(assignments, os.environ)
    settings = resolved.settings
    if "--wait" in options and not settings.partition:
        raise UserError("--wait: needs PARTITION; a run on this machine is waited for anyway")
    if not is_dry:
        prepare.refuse_missing_gpus(settings)
    command = submit.command(settings, RUN_DIR) if settings.partition else local.command(settings, RUN_DIR)
    runs_here = not is_dry and not settings.partition
    experiments = [
        prepare.prepare(experiment, data, allowed, command, thorough=runs_here)
        for experiment in prepare.experiments(resolved, draws=not is_dry)
    ]
    if is_dry:
        return _show(settings, experiments, allowed)
    if settings.partition:
        return submit.submit(experiments, given, allowed, wait="--wait" in options)
    return worst(_run_here(experiments, given))


def _parted(arguments: Sequence[str]) -> tuple[set[str], list[str], list[str]]:
    """Options without a value, the arguments that are settings, and the names after --allow-change."""
    options, others, names = set(), [], []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, name = argument.partition("=")
        if argument in ("--dryrun", "--wait"):
            options.add(argument)
        elif option != "--allow-change":
            others.append(argument)
        elif not (name := name if equals else next(remaining, "")):
            raise UserError("--allow-change: name the setting that may change, such as --allow-change GBS")
        else:
            names.append(name)
    return options, others, names


def _show(asked: Settings, experiments: Sequence[Prepared], allowed: Sequence[str]) -> int:
    """Prints the plan of the first experiment that has something left to do, and what would be submitted of all."""
    codes = [prepared.say_finished() for prepared in experiments if prepared.outcome]
    left = [prepared.plan for prepared in experiments if not prepared.outcome]
    if not left:
        return worst(codes)
    prepare.check_space(experiments)
    print(left[0].with_settings(nexp=asked.nexp, seeds=asked.seeds or left[0].settings.seeds).text(), end="")
    if asked.partition:
        print("\n" + submit.preview(left, RUN_DIR, allowed), end="")
    return 0


def _run_here(experiments: Sequence[Prepared], given: Sequence[str]) -> list[int]:
    """Runs one experiment after the other; gives their exit codes. One that is interrupted is the last."""
    codes: list[int] = []
    for number, prepared in enumerate(experiments, 1):
        if prepared.outcome:
            codes.append(prepared.say_finished())
            continue
        if len(experiments) > 1:
            print(f"experiment {number} of {len(experiments)}: seed {prepared.plan.settings.seeds}", flush=True)
        prepared.make_room()
        codes.append(local.run(prepared.plan, given))
        if codes[-1] == INTERRUPTED:
            break
    return codes
