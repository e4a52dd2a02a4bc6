"""The verbs of python3 -m llama31. Each imports what it needs when it is called, so that help and errors are quick."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

try:
    import typer
except ModuleNotFoundError:  # most likely the system's python3
    print(f"{sys.executable} lacks the packages; bash dev/setup.sh makes .venv/bin/python with them", file=sys.stderr)
    sys.exit(2)

from llama31 import rules
from llama31.corpus import tools
from llama31.errors import UserError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tools.app)
# Settings are no options, and an option with a typing error is told of together with theirs.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=SETTINGS, options_metavar="[--dryrun] [--allow-change NAME] [NAME=value ...]")
def run(context: typer.Context) -> None:
    """Train; --dryrun shows the plan. Settings: NAME=value over the environment; config.sh lists them."""
    from llama31 import launch

    raise typer.Exit(launch.main(context.args))


@app.command(context_settings=SETTINGS, options_metavar="[NAME=value ...]")
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
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that encode; all cores unless given.")] = None,
) -> None:
    """Turn texts into Megatron token files."""
    from llama31.corpus import encoder
    from llama31.corpus import tokenize as corpus_tokenize

    if threads:
        encoder.use_threads(threads)
    corpus_tokenize.tokenize(inputs, output_prefix, tokenizer, append_eod=append_eod, json_key=json_key)


@app.command()
def convert(
    source: Annotated[Path, typer.Option(help="Directory of the checkpoint to read.")],
    destination: Annotated[Path, typer.Option(help="Directory to write; it must not exist.")],
    to: Annotated[
        Literal["nemo", "hf"], typer.Option(help="What to write: a NeMo checkpoint, or Hugging Face's files.")
    ] = "nemo",
) -> None:
    """Turn a Hugging Face Llama into a NeMo checkpoint or, with --to hf, the other way; compare the logits of both."""
    from llama31.checkpoint import convert as checkpoint_convert

    raise typer.Exit(checkpoint_convert.convert(source, destination, to))


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


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, MLPerf logs, directories of result_*.txt.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Page to write.")] = Path("report.html"),
    devices: Annotated[int | None, typer.Option(min=1, help="Devices of runs whose logs do not say.")] = None,
    gpu: Annotated[str, typer.Option(help="Their GPU, such as H200, for MFU.")] = "",
) -> None:
    """Make a page of what runs did: losses, speed, time, and the systems of MLPerf Training v5.1 beside them."""
    from llama31.report import command

    command.report(runs, output, devices, gpu)


def main() -> None:
    """Runs the verb; a user's mistake is a line on standard error and exit code 2."""
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except UserError as error:
        print("\n".join(error.lines), file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:  # no such verb or option, one is missing, and so on
        print(" ".join(error.format_message().split()), file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # as in `run --dryrun | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
