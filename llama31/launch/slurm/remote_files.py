"""Files of a run directory, written here or, through ssh, on the cluster."""

import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, atomic_writer, failures_named
from llama31.common.json_files import parse_json
from llama31.config import paths
from llama31.launch import cluster_needs, remote_shell, run_directory
from llama31.run_dir import job_chain, record
from llama31.run_dir.events import Outcome
from llama31.settings import Settings


def new_directory(settings: Settings, destination: str) -> Path:
    """A new run directory under JOB_DIR: made here; through ssh so far a name, under which `fill` makes it."""
    if not destination:
        return run_directory.make(settings)
    return Path(settings.job_dir) / run_directory.names(settings)[0]


def fill(settings: Settings, directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Writes the first files of a run directory, texts by their names; where that fails, no directory is left.

    Raises UserError with a line for each thing that the jobs need and the cluster lacks.
    """
    if destination:
        if wrong := remote_shell.output(destination, ["sh"], _filling(settings, directory, files, destination)):
            raise UserError(wrong.splitlines())
        return
    try:
        write(directory, files, destination)
    except UserError:
        take_back(directory, files, destination)
        raise


def write(directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Writes files by their names into a run directory that is there, each whole or not at all."""
    if destination:
        remote_shell.output(destination, ["sh"], _all([f"cd -- {_quoted(directory)}", *_writing(files)]))
        return
    with failures_named(directory):
        for name, text in files.items():
            with atomic_writer(directory / name) as file:
                file.write(text.encode())


def take_back(directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Removes a run directory to which no job was submitted, with the files that it was filled with."""
    if not destination:
        shutil.rmtree(directory)
        return
    names = " ".join(map(_quoted, files))
    try:
        remote_shell.output(destination, ["sh"], f'cd -- {_quoted(directory)} && rm -f -- {names} && rmdir -- "$PWD"\n')
    except UserError:  # the reason why nothing was submitted is what counts
        return


def last_outcome(run_dir: Path, destination: str) -> tuple[bool, Outcome | None]:
    """Whether a job has started ranks in a run directory, and the outcome of the last one that did.

    The outcome is None if it was killed before it could say. Raises UserError where the directory cannot be read.
    """
    if not destination:
        begun = job_chain.begun_dirs(run_dir)
        return bool(begun), record.load_outcome(begun[-1]) if begun else None
    lines = remote_shell.output(destination, ["sh"], _outcomes(run_dir)).splitlines()
    outcomes = {Path(name): text for name, _, text in (line.partition(" ") for line in lines)}
    begun = job_chain.in_order(outcomes)
    text = outcomes[begun[-1]] if begun else ""
    return bool(begun), parse_json(Outcome, text, run_dir / begun[-1]) if text else None


def _outcomes(run_dir: Path) -> str:
    """Shell that prints a line for each job that has started ranks: its directory's name, and its outcome if any."""
    return f"""cd -- {_quoted(run_dir)} || exit
for file in job-*/{paths.SETTINGS}; do
    [ -e "$file" ] || continue
    printf '%s %s\\n' "${{file%/*}}" "$(tr -d '\\n' 2>/dev/null <"${{file%/*}}/{paths.OUTCOME}")"
done 2>/dev/null
"""


def _filling(settings: Settings, directory: Path, files: Mapping[str, str], destination: str) -> str:
    """Shell that makes the directory, whole or not at all, and prints a line for all that speaks against it."""
    partial = _quoted(directory.with_name(f".{directory.name}.{secrets.token_hex(4)}{PARTIAL}"))
    steps = [
        f"mkdir -p -- {_quoted(directory.parent)}",
        f"mkdir -- {partial}",
        f"cd -- {partial}",
        *_writing(files),
        f"mv -T -- {partial} {_quoted(directory)}",
    ]
    failed = f"printf '%s: %s\\n' {_quoted(f'JOB_DIR={settings.job_dir} on {destination}')} \"$why\""
    lines = [
        *cluster_needs.checks(settings),
        '[ -z "$lacking" ] || exit 0',
        f"make() {{\n{_all(steps)}}}",
        f'why="$(make 2>&1)" || {{ rm -rf -- {partial}; {failed}; }}',
    ]
    return "\n".join(lines) + "\n"


def _all(steps: Sequence[str]) -> str:
    """Shell commands of which each needs the ones before it."""
    return " &&\n".join(steps) + "\n"


def _writing(files: Mapping[str, str]) -> Iterator[str]:
    """Shell commands that write files into the working directory, each whole or not at all."""
    for name, text in files.items():
        partial = _quoted(name + PARTIAL)
        yield f"printf %s {_quoted(text)} >{partial}"
        yield f"mv -- {partial} {_quoted(name)}"


def _quoted(value: object) -> str:
    return shlex.quote(str(value))
