"""Slurm's tools, those of this machine or, through ssh, those of another, without variables that change what they do.

Standard library."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from llama31.common.errors import UserError

PATIENCE = 60.0  # seconds; a Slurm controller that is busy answers late
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")  # no question, and no minutes for a host that is down
SSH_FAILED = 255  # ssh's exit code for a failure of its own
NOT_FOUND = 127  # a shell's exit code for a command that it does not find
ENVIRONMENT = Path(__file__).with_name("environment.sh")
FIRST_FROM_INPUT = 'IFS= read -rd "" before; eval "$before"'
"""Shell that runs the commands before the first zero byte of its standard input, with the rest as their input. So ssh
carries one short line, which any login shell can pass to bash."""
START = "llama31-starts-here"
"""Line that separates what a shell prints on its own, as its profile makes it, from what a command prints."""


class Unreachable(UserError):
    """HOST cannot be asked, or not for this; Slurm has no part in it."""


def command(destination: str, argv: Sequence[str]) -> list[str]:
    """`argv` as it is run here, or through ssh at `destination`.

    There a login shell runs it, for many sites put Slurm on the PATH in /etc/profile.d or by modules.
    """
    return _through_ssh(destination, ["bash", "-lc", shlex.join(argv)]) if destination else list(argv)


def _through_ssh(destination: str, argv: Sequence[str]) -> list[str]:
    """ssh that runs `argv` at `destination`, whose shell splits what ssh sends it."""
    return [*SSH, destination, shlex.join(argv)]


@cache
def environment() -> str:
    """Shell functions that unset variables which Slurm's commands take for options, to be part of other scripts."""
    _, _, functions = ENVIRONMENT.read_text(encoding="utf-8").partition("\n")
    return functions


def output(
    destination: str,
    argv: Sequence[str],
    stdin: str | bytes = "",
    timeout: float = PATIENCE,
    kept: Sequence[str] = (),
) -> str:
    """Standard output of `argv`, as it is, run at `destination` with `stdin` on standard input.

    Variables that Slurm's commands take for options are unset, but for those named in `kept`: with them sbatch would do
    something else than the settings say, and hand them to the job, and squeue would hide jobs.
    Raises UserError, in one line, where it cannot be run, fails, or takes more than `timeout` seconds.
    """
    tool = f"{argv[0]} on {destination}" if destination else argv[0]
    before = f"{environment()}\nunset_slurm_options {shlex.join(kept)}\necho {START}\nexec {shlex.join(argv)}\0"
    local = [shutil.which("bash") or "/bin/bash", "-c", FIRST_FROM_INPUT]
    try:
        done = subprocess.run(
            _through_ssh(destination, ["bash", "-lc", FIRST_FROM_INPUT]) if destination else local,
            input=before.encode() + (stdin.encode() if isinstance(stdin, str) else stdin),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        if destination:
            raise Unreachable(
                f"HOST: ssh to {destination} is not possible, this machine has no ssh; install it"
            ) from None
        raise UserError("bash: not found; install it") from None
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
            "without a question: accept the host's key once, and use a key without a password, or an agent"
        )
    if done.returncode == NOT_FOUND:
        if destination:
            raise Unreachable(f"HOST: {tool} is not found; name a machine that has it, such as a login node")
        raise UserError(f"{tool}: not found; set HOST to a machine that has it, such as a login node")
    raise UserError(f"{tool} fails: {said}")


def _reason(tool: str, said: str) -> str:
    """What a tool says of its failure, in one line: all that it marks as an error, else its last line of its own."""
    lines = [line.strip() for line in said.strip().splitlines()]
    marks = (f"{tool}: error: ", f"{tool}: fatal: ")
    errors = [line.split(": ", 2)[2] for line in lines if line.startswith(marks)]
    own = [line for line in lines if line.startswith(f"{tool}: ")] or lines
    return "; ".join(errors) or "".join(own[-1:]).removeprefix(f"{tool}: ")
