"""Read and write the files of a run directory, here or through ssh on the cluster.

Through ssh, files arrive as one tar archive on the standard input of a fixed script, which needs sh, tar and coreutils.
They are unpacked under a partial name and renamed at the end, so that they are there whole or not at all.
"""

import io
import secrets
import shutil
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, atomic_writer, failures_named
from llama31.common.json_files import parse_json
from llama31.config import paths
from llama31.launch import cluster_needs, remote_shell
from llama31.run_dir import job_chain, record
from llama31.run_dir.events import Outcome
from llama31.settings import Settings

# An archive that was cut off between two files unpacks without an error, so the last file must be there.
UNPACK = """
unpack() { mkdir -p -- "${2%/*}" && mkdir -- "$1" && tar -xof - -C "$1" && [ -f "$1/$3" ] && mv -T -- "$1" "$2"; }
why="$(unpack "$@" 2>&1)" || {
    rm -rf -- "$1"
    printf '%s: %s\\n' "$4" "$(printf '%s\\n' "$why" | sed '/^tar: E[rx]/d' | paste -sd ';' -)"
}
"""
"""Unpack the archive, whose last file is $3, as directory $2 by way of $1. If it fails, print `$4: reasons`."""
ADD = """
cd -- "$1" || exit
mkdir -- "$2" && tar -xof - -C "$2" && mv -- "$2/$3" "$3"
code=$?
rm -rf -- "$2"
exit "$code"
"""
"""Add the file $3 of the archive to the directory $1, by way of the directory $2 in it."""
REMOVE = 'cd -- "$1" && shift && rm -f -- "$@" && rmdir -- "$PWD"'
OUTCOMES = """
cd -- "$1" || exit
for settings in job-*/"$2"; do
    [ -e "$settings" ] || continue
    job="${settings%/*}"
    printf '%s %s\\n' "$job" "$(tr -d '\\n' 2>/dev/null <"$job/$3")"
done 2>/dev/null
"""
"""Print a line for each job in the run directory $1 that has started ranks: its directory's name, and its outcome."""


def fill(settings: Settings, directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Write the first files of a run directory, texts by their names. If that fails, no directory is left.

    Raises UserError with a line for each thing that the jobs need and the cluster lacks.
    """
    if destination:
        partial = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}{PARTIAL}")
        where = f"JOB_DIR={settings.job_dir} on {destination}"
        script = "\n".join([*cluster_needs.checks(settings), '[ -z "$lacking" ] || exit 0', UNPACK])
        if problems := _sh(destination, script, partial, directory, list(files)[-1], where, stdin=archive(files)):
            raise UserError(problems.splitlines())
        return
    try:
        write(directory, files, destination)
    except UserError:
        take_back(directory, files, destination)
        raise


def write(directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Write files by their names into an existing run directory, each whole or not at all."""
    if destination:
        for name, text in files.items():
            partial = f".{name}.{secrets.token_hex(4)}{PARTIAL}"
            _sh(destination, ADD, directory, partial, name, stdin=archive({name: text}))
        return
    with failures_named(directory):
        for name, text in files.items():
            with atomic_writer(directory / name) as file:
                file.write(text.encode())


def take_back(directory: Path, files: Mapping[str, str], destination: str) -> None:
    """Remove a run directory to which no job was submitted, with the files that `fill` wrote."""
    if not destination:
        shutil.rmtree(directory)
        return
    try:
        _sh(destination, REMOVE, directory, *files)
    except UserError:  # the reason why nothing was submitted is what counts
        return


def last_outcome(run_dir: Path, destination: str) -> tuple[bool, Outcome | None]:
    """Return whether a job has started ranks in a run directory, and the outcome of the last one that did.

    The outcome is None if the job was killed before it could write one. Raises UserError if the directory cannot be
    read.
    """
    if not destination:
        started = job_chain.started_dirs(run_dir)
        return bool(started), record.load_outcome(started[-1]) if started else None
    lines = _sh(destination, OUTCOMES, run_dir, paths.SETTINGS, paths.OUTCOME).splitlines()
    outcomes = {Path(name): text for name, _, text in (line.partition(" ") for line in lines)}
    started = job_chain.in_order(outcomes)
    text = outcomes[started[-1]] if started else ""
    return bool(started), parse_json(Outcome, text, run_dir / started[-1]) if text else None


def archive(files: Mapping[str, str]) -> bytes:
    """Return a tar archive of texts by their names, in their order."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in files.items():
            encoded = text.encode()
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(encoded), int(time.time())
            tar.addfile(member, io.BytesIO(encoded))
    return content.getvalue()


def _sh(destination: str, script: str, *arguments: str | Path, stdin: bytes = b"") -> str:
    return remote_shell.output(destination, ["sh", "-c", script, "sh", *map(str, arguments)], stdin)
