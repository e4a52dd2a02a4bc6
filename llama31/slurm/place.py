"""Files of a run directory, written here or, through ssh, on the cluster."""

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from llama31 import run_directory
from llama31.corpus.files import atomic_writer, failures_named
from llama31.errors import UserError
from llama31.settings import Settings
from llama31.slurm import remote


def make_directory(settings: Settings, destination: str) -> Path:
    """A new run directory under JOB_DIR."""
    if not destination:
        return run_directory.make(settings)
    directory = Path(settings.job_dir) / run_directory.names(settings)[0]
    # mkdir fails where it is there already, so that two submissions never share one.
    script = f"mkdir -p -- {_quoted(directory.parent)} && mkdir -- {_quoted(directory)}"
    remote.output(destination, ["sh"], script)
    return directory


def write(directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Writes files by their names in a run directory, each whole or not at all."""
    if destination:
        steps = [f"cd -- {_quoted(directory)}"]
        for name, text in files.items():
            steps.append(f"printf %s {shlex.quote(text)} >{_quoted(f'.{name}.partial')}")
            steps.append(f"mv -- {_quoted(f'.{name}.partial')} {_quoted(name)}")
        remote.output(destination, ["sh"], " &&\n".join(steps) + "\n")
        return
    with failures_named(directory):
        for name, text in files.items():
            with atomic_writer(directory / name) as file:
                file.write(text.encode())


def take_back(directory: Path, destination: str) -> None:
    """Removes a run directory to which no job was submitted; through ssh it is left, and says so by its name."""
    if not destination:
        shutil.rmtree(directory)
        return
    unused = directory.with_name(f"{directory.name}.unused")
    try:
        remote.output(destination, ["mv", "--", str(directory), str(unused)])
    except UserError:  # the reason why nothing was submitted is what counts
        return


def _quoted(path: object) -> str:
    return shlex.quote(str(path))
