"""Verbs that plan, prepare, start and watch runs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llama31.common.printable import printable

app = typer.Typer()
# Settings are not options; a misspelt option is reported together with invalid settings.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=SETTINGS, options_metavar="[--dryrun] [--wait] [--allow-change NAME] [NAME=value ...]")
def run(context: typer.Context) -> None:
    """Train on this machine, or on Slurm with PARTITION.

    --dryrun shows the plan, --wait follows the jobs. NAME=value overrides a variable; config.sh lists all settings.
    """
    from llama31.cli import launch

    raise typer.Exit(launch.run(context.args))


@app.command(context_settings=SETTINGS, options_metavar="[--replay RUN_DIR] [NAME=value ...]")
def plan(
    context: typer.Context,
    replay: Annotated[
        Path | None, typer.Option(help="Run directory: print the command that reproduces it, and what has changed.")
    ] = None,
) -> None:
    """Show the plan of a run, like run --dryrun. With --replay: the command that reproduces an earlier run."""
    if replay:
        from llama31.launch import provenance

        print("\n".join(map(printable, provenance.replay(replay, context.args))))
        return
    from llama31.cli import launch

    raise typer.Exit(launch.run(["--dryrun", *context.args]))


@app.command(context_settings=SETTINGS, options_metavar="[NAME=value ...]")
def index(context: typer.Context) -> None:
    """Build the training index of SEEDS before the run. Needs no GPU; the run then starts at once."""
    from llama31.cli import build_index

    build_index.index(context.args)


@app.command(context_settings=SETTINGS, options_metavar="[--verify] [--timeout SECONDS] [NAME=value ...]")
def doctor(
    context: typer.Context,
    verify: Annotated[bool, typer.Option(help="Also read all token files.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Time limit of each check in seconds.")] = 120,
) -> None:
    """Check whether a run with these settings would start. Works here, or under srun on all its nodes."""
    from llama31.doctor import doctor as run_doctor

    raise typer.Exit(run_doctor.doctor(context.args, verify=verify, timeout=timeout))


@app.command()
def status(
    directories: Annotated[
        list[Path], typer.Argument(metavar="JOB_DIR...", help="Directories of runs, or run directories.")
    ],
) -> None:
    """Show all runs in a directory. For each: job, state, steps, losses, speed, time left.

    The exit code is 1 if files of a run cannot be read.
    """
    from llama31.status import status as run_status

    raise typer.Exit(run_status.status(directories, sys.stdout))
