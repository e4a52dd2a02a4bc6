"""Verbs that make an MLPerf submission."""

import os
from pathlib import Path
from typing import Annotated

import typer

from llama31 import rules

app = typer.Typer()


@app.command()
def system(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; default: standard output.")
    ] = None,
) -> None:
    """Draft the system description of a submission. Read from this machine and the settings in the environment."""
    from llama31.config.resolve import resolve
    from llama31.mlperf.package import system_description

    raise typer.Exit(system_description.system(resolve([], os.environ), output))


@app.command()
def package(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR", help="Directories of the ten runs.")],
    org: Annotated[str, typer.Option(help="Directory of the organisation; logs may spell its name differently.")],
    system: Annotated[Path, typer.Option(metavar="SYSTEM.json", help="System description; `system` drafts one.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory to create; it must not exist.")],
    ruleset: Annotated[str, typer.Option(help=f"One of {', '.join(rules.RULESETS)}.")] = rules.RULESETS[-1],
    code: Annotated[
        Path | None,
        typer.Option(metavar="CHECKOUT", help="Checkout with the commit of the runs; default: this one."),
    ] = None,
) -> None:
    """Build a submission from ten runs. It is kept only if MLCommons' checkers accept it."""
    from llama31.config import paths
    from llama31.mlperf.package import package as submission_package

    raise typer.Exit(submission_package.package(org, system, runs, output, ruleset, code or paths.REPOSITORY))
