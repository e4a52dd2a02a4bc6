"""Entry point: parse the command line, run the verb, and print user errors and failing disks without a traceback."""

import os
import sys

try:
    import typer
except ModuleNotFoundError:  # most likely the system's python3
    print(f"{sys.executable} lacks the packages; bash dev/setup.sh creates .venv/bin/python with them", file=sys.stderr)
    sys.exit(2)

from llama31.cli import convert, corpus, results, running
from llama31.cli import package as submission
from llama31.common import training_packages
from llama31.common.errors import UserError, line_of

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verbs in (running, convert, results, submission, corpus):
    app.add_typer(verbs.app)


def main() -> None:
    """Run the verb. A user error is a line on standard error and exit code 2."""
    arguments = sys.argv[1:] or ["--help"]
    try:
        if arguments[0] == "run" and not {"-h", "--help"} & set(arguments):
            # All that follows belongs to the verb. Typer would import pydantic first, a third of the launcher's time.
            from llama31.cli import launch

            sys.exit(launch.run(arguments[1:]))
        sys.exit(app(arguments, standalone_mode=False))
    except UserError as error:
        print("\n".join(error.lines), file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (name := (error.name or "").partition(".")[0]) not in training_packages.MODULES:
            raise
        print(*training_packages.lacking(sys.argv[1], [name]).lines, sep="\n", file=sys.stderr)
        sys.exit(2)
    except typer.TyperException as error:  # unknown verb, unknown or missing option
        print(" ".join(error.format_message().split()), file=sys.stderr)
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:  # as in `run --dryrun | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a disk or file server that fails where nothing names the file
        print(line_of(error), file=sys.stderr)
        sys.exit(2)
