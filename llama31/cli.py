"""The verbs of python3 -m llama31. Each imports what it needs when it is called, so that help and errors are quick."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from llama31 import rules
from llama31.corpus import tools
from llama31.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(tools.app)
EVERYTHING = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=EVERYTHING)
def run(context: typer.Context) -> None:
    """Train what the environment (config.sh) and NAME=value arguments say; --dryrun shows the plan."""
    from llama31 import launch

    raise typer.Exit(launch.main(context.args))


@app.command(context_settings=EVERYTHING)
def plan(context: typer.Context) -> None:
    """Show the plan of a run, as run --dryrun does."""
    from llama31 import launch

    raise typer.Exit(launch.main(["--dryrun", *context.args]))


@app.command()
def tokenize(
    inputs: Annotated[list[Path], typer.Option("--input", help="File of JSON lines: .json, .jsonl or .json.gz.")],
    output_prefix: Annotated[Path, typer.Option(help="Path of the .bin and .idx to write, without extension.")],
    tokenizer: Annotated[Path, typer.Option(help="Directory of the Hugging Face tokenizer.")],
    append_eod: Annotated[bool, typer.Option(help="End each document with the end-of-text token.")] = False,
    json_key: Annotated[str, typer.Option(help="Key of the text in each record.")] = "text",
) -> None:
    """Turn texts into Megatron token files."""
    from llama31.corpus import tokenize as corpus_tokenize

    corpus_tokenize.tokenize(inputs, output_prefix, tokenizer, append_eod=append_eod, json_key=json_key)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Run directory or MLPerf log.")],
    ruleset: Annotated[str, typer.Option(help=f"One of {', '.join(rules.RULESETS)}.")] = rules.RULESETS[-1],
) -> None:
    """Judge a log by the official compliance checker, and say in plain words what holds."""
    from llama31.mlperf import check as mlperf_check

    raise typer.Exit(mlperf_check.run(path, ruleset))


def main() -> None:
    """Runs the verb; a user's mistake is a line on standard error and exit code 2."""
    try:
        app()
    except UserError as error:
        print("\n".join(error.lines), file=sys.stderr)
        sys.exit(2)
