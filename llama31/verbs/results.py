"""Verbs on what a run left behind."""

from pathlib import Path
from typing import Annotated

import typer

from llama31 import rules
from llama31.errors import UserError

app = typer.Typer()


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Run directory or MLPerf log.")],
    ruleset: Annotated[str, typer.Option(help=f"One of {', '.join(rules.RULESETS)}.")] = rules.RULESETS[-1],
) -> None:
    """Judge a log by the official compliance checker, and say in plain words what holds."""
    from llama31 import paths
    from llama31.mlperf import check as mlperf_check

    raise typer.Exit(mlperf_check.run(paths.latest_run(path), ruleset))


@app.command()
def summary(run_dir: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Show how a run ended, and its figures."""
    from llama31 import paths, record
    from llama31.report import summary as run_summary

    run_dir = paths.latest_run(run_dir)
    settings, outcome = record.load_settings(run_dir), record.load_outcome(run_dir)
    if outcome is None:
        raise UserError(f"{run_dir}: has no outcome; the run goes on, or was killed")
    print("\n".join(run_summary.lines(run_dir, settings, outcome)))
