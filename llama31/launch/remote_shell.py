"""Run commands such as Slurm's, here or through ssh, without variables that change what they do. Standard library."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from llama31.common.errors import UserError

PATIENCE = 60.0  # seconds; a busy Slurm controller answers late
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")  # no prompt, no minutes of waiting
SSH_FAILED = 255  # ssh's exit code for a failure of its own
NOT_FOUND = 127  # a shell's exit code for an unknown command
ENVIRONMENT = Path(__file__).with_name("environment.sh")
FIRST_FROM_INPUT = 'IFS= read -rd "" before; eval "$before"'
"""Shell that runs the commands before the first zero byte of its standard input, with the rest as their input. So ssh
carries one short line, which any login shell can pass to bash."""
START = "llama31-starts-here"
"""Line between what a shell's profile prints and what the command prints."""


class Unreachable(UserError):
    """HOST cannot be reached, or lacks the command; not an error of Slurm's."""


def command(destination: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` here, or through ssh at `destination`.

    There a login shell runs it, since many sites add Slurm to PATH in /etc/profile.d or by modules.
    """
    return [*SSH, destination, shlex.join(["bash", "-lc", shlex.join(argv)])] if destination else list(argv)


@cache
def environment() -> str:
    """Return shell functions that unset the variables which Slurm's commands read as options, for use in scripts."""
    _, _, functions = ENVIRONMENT.read_text(encoding="utf-8").partition("\n")
    return functions


def output(
    destination: str, argv: Sequence[str], stdin: str | bytes = "", timeout: float = PATIENCE, kept: Sequence[str] = ()
) -> str:
    """Run `argv` at `destination` with `stdin` on standard input. Returns its standard output unchanged.

    Variables that Slurm's commands read as options are unset, except those in `kept`: they would override the settings
    in sbatch, be passed to the job, and hide jobs from squeue. Raises UserError, in one line, if the command cannot be
    run, fails, or takes more than `timeout` seconds.
    """
    tool = f"{argv[0]} on {destination}" if destination else argv[0]
    before = f"{environment()}\nunset_slurm_options {shlex.join(kept)}\necho {START}\nexec {shlex.join(argv)}\0"
    local = [shutil.which("bash") or "/bin/bash", "-c", FIRST_FROM_INPUT]
    through_ssh = [*SSH, destination, shlex.join(["bash", "-lc", FIRST_FROM_INPUT])]
    try:
        done = subprocess.run(
            through_ssh if destination else local,
            input=before.encode() + (stdin.encode() if isinstance(stdin, str) else stdin),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        if not destination:
            raise UserError("bash: not found; install it") from None
        raise Unreachable(f"HOST: ssh to {destination} is not possible, this machine has no ssh; install it") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{tool}: no answer within {timeout:g} s; try again when the cluster answers") from None
    printed, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    printed = printed.partition(f"{START}\n")[2]
    if done.returncode == 0:
        return printed
    said = _reason(argv[0], errors) or _reason(argv[0], printed) or f"exit code {done.returncode}"
    if destination and done.returncode == SSH_FAILED:
        raise Unreachable(
            f"HOST: ssh {destination} fails: {said.removeprefix('ssh: ').rstrip('.')}; `ssh {destination}` must work "
            "without a prompt: accept the host's key once, and use a key without a password, or an agent"
        )
    if done.returncode == NOT_FOUND:
        if destination:
            raise Unreachable(f"HOST: {tool} is not found; name a machine that has it, such as a login node")
        raise UserError(f"{tool}: not found; set HOST to a machine that has it, such as a login node")
    raise UserError(f"{tool} fails: {said}")


def _reason(tool: str, said: str) -> str:
    """Return a tool's error message in one line: all lines marked as errors, otherwise its last line."""
    lines = [line.strip() for line in said.strip().splitlines()]
    marks = (f"{tool}: error: ", f"{tool}: fatal: ")
    errors = [line.split(": ", 2)[2] for line in lines if line.startswith(marks)]
    own = [line for line in lines if line.startswith(f"{tool}: ")] or lines
    return "; ".join(errors) or "".join(own[-1:]).removeprefix(f"{tool}: ")
