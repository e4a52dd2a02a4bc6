"""Verbs that make an MLPerf submission."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llama31 import rules
from llama31.config import paths

app = typer.Typer()


@app.command()
def system(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; printed without it.")] = None,
) -> None:
    """Draft the system description of a submission from this machine and the settings in the environment."""
    from llama31.config.resolve import resolve
    from llama31.mlperf.package import system_description

    raise typer.Exit(system_description.system(resolve([], os.environ), output))


@app.command()
def package(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR", help="Directories of the ten runs.")],
    org: Annotated[str, typer.Option(help="Directory of the organisation; logs may write its name otherwise.")],
    system: Annotated[Path, typer.Option(metavar="SYSTEM.json", help="System description; `system` drafts one.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to make; it must not exist.")],
    ruleset: Annotated[str, typer.Option(help=f"One of {', '.join(rules.RULESETS)}.")] = rules.RULESETS[-1],
    code: Annotated[
        Path, typer.Option(metavar="CHECKOUT", help="Checkout that has the commit of the runs.", show_default=False)
    ] = paths.REPOSITORY,
) -> None:
    """Make the tree of a submission from ten runs, and have the official checkers judge it."""
    from llama31.mlperf.package import package as submission_package

    raise typer.Exit(submission_package.package(org, system, runs, output, ruleset, code))
