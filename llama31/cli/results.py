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
    """Check logs with the official checkers. One by one, and all together as a submission."""
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
        raise UserError(f"{run_dir}: no outcome; the run is still running, or was killed")
    print("\n".join(run_summary.lines(run_dir, settings, outcome)))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, MLPerf logs, directories of result_*.txt.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of devices, for logs that do not state it.")
    ] = None,
    gpu: Annotated[str, typer.Option(help="GPU of such logs, for example H200, for MFU.")] = "",
) -> None:
    """Write an HTML report on runs. Losses, speed and time, next to systems of MLPerf Training v5.1 and v6.0."""
    from llama31.report import command

    command.report(runs, output, devices, gpu)
