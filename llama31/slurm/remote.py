"""Slurm's tools, those of this machine or, through ssh, those of another. Standard library."""

import shlex
import subprocess
from collections.abc import Sequence

from llama31.errors import UserError

PATIENCE = 60.0  # seconds; a Slurm controller that is busy answers late
SSH_FAILED = 255  # ssh's exit code for a failure of its own
NOT_FOUND = 127  # a shell's exit code for a command that it does not find


def command(destination: str, argv: Sequence[str]) -> list[str]:
    """`argv` as it is run here, or through ssh at `destination`, where no question may be asked."""
    return ["ssh", "-o", "BatchMode=yes", destination, shlex.join(argv)] if destination else list(argv)


def output(destination: str, argv: Sequence[str], stdin: str = "", timeout: float = PATIENCE) -> str:
    """Standard output of `argv`, as it is, run at `destination` with `stdin` on standard input.

    Raises UserError, in one line, where it cannot be run, fails, or takes more than `timeout` seconds.
    """
    tool = f"{argv[0]} on {destination}" if destination else argv[0]
    try:
        done = subprocess.run(
            command(destination, argv),
            input=stdin.encode(),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError:
        if destination:
            raise UserError(
                f"HOST: ssh to {destination} is not possible, this machine has no ssh; install it"
            ) from None
        raise UserError(f"{tool}: not found; set HOST to a machine that has it, such as a login node") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{tool}: no answer within {timeout:g} s; try again when the cluster answers") from None
    printed, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if done.returncode == 0:
        return printed
    said = (errors.strip() or printed.strip() or f"exit code {done.returncode}").splitlines()[-1].strip()
    if destination and done.returncode == SSH_FAILED:
        raise UserError(
            f"HOST: ssh {destination} fails: {said}; `ssh -o BatchMode=yes {destination} true` must work, "
            "with a key that needs no password or an agent that holds it"
        )
    if destination and done.returncode == NOT_FOUND:
        raise UserError(f"HOST: {tool} is not found; name a machine that has it, such as a login node")
    raise UserError(f"{tool} fails: {said.removeprefix(f'{argv[0]}: ').removeprefix('error: ')}")
