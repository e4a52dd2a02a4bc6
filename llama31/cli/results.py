"""Verbs that read finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from llama31 import rules
from llama31.common.errors import UserError

app = typer.Typer()


@app.command()
def check(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR_OR_LOG", help="Run directories, MLPerf logs, directories of result_*.txt."),
    ],
    ruleset: Annotated[str, typer.Option(help=f"One of {', '.join(rules.RULESETS)}.")] = rules.RULESETS[-1],
) -> None:
    """Judge logs by the official checkers, each and as one submission, and say in plain words what holds."""
    from llama31.report import find_logs

    logs = [log for run in runs for log in find_logs.find([run])]
    from llama31.mlperf.check import submission

    raise typer.Exit(submission.check(logs, ruleset))


@app.command()
def summary(run_dir: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Show how a run ended, and its figures."""
    from llama31.config import paths
    from llama31.run_dir import record
    from llama31.run_dir import summary as run_summary

    run_dir = paths.latest_run(run_dir)
    settings, outcome = record.load_settings(run_dir), record.load_outcome(run_dir)
    if outcome is None:
        raise UserError(f"{run_dir}: has no outcome; the run goes on, or was killed")
    print("\n".join(run_summary.lines(run_dir, settings, outcome)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, MLPerf logs, directories of result_*.txt.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Page to write.")] = Path("report.html"),
    devices: Annotated[int | None, typer.Option(min=1, help="Devices of runs whose logs do not say.")] = None,
    gpu: Annotated[str, typer.Option(help="Their GPU, such as H200, for MFU.")] = "",
) -> None:
    """Make a page of what runs did: losses, speed, time, and systems of MLPerf Training v5.1 and v6.0 beside them."""
    from llama31.report import command

    command.report(runs, output, devices, gpu)
