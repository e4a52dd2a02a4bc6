"""Slurm's tools, those of this machine or, through ssh, those of another. Standard library."""

import os
import shlex
import subprocess
from collections.abc import Collection, Sequence

from llama31.errors import UserError

PATIENCE = 60.0  # seconds; a Slurm controller that is busy answers late
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")  # no question, and no minutes for a host that is down
SSH_FAILED = 255  # ssh's exit code for a failure of its own
NOT_FOUND = 127  # a shell's exit code for a command that it does not find
KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""Variables of Slurm that say how to reach it. Others are of a job that this process is part of, or of a user's liking:
sbatch would hand them on to the new job, whose srun goes by them, and squeue would write times in another format."""
START = "llama31-starts-here"
"""Line that separates what a login shell prints on its own from what a command prints."""


class Unreachable(UserError):
    """HOST cannot be asked, or not for this; Slurm has no part in it."""


def command(destination: str, argv: Sequence[str]) -> list[str]:
    """`argv` as it is run here, or through ssh at `destination`.

    There a login shell runs it, for many sites put Slurm on the PATH in /etc/profile.d or by modules.
    """
    return [*SSH, destination, shlex.join(["bash", "-lc", shlex.join(argv)])] if destination else list(argv)


def output(
    destination: str,
    argv: Sequence[str],
    stdin: str = "",
    timeout: float = PATIENCE,
    unset: Collection[str] = (),
) -> str:
    """Standard output of `argv`, as it is, run at `destination` with `stdin` on standard input.

    Here it runs without the variables in `unset`; through ssh it has those of a login there.
    Raises UserError, in one line, where it cannot be run, fails, or takes more than `timeout` seconds.
    """
    tool = f"{argv[0]} on {destination}" if destination else argv[0]
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in unset and (name in KEPT or not name.startswith("SLURM_"))
    }
    marked = ["sh", "-c", f'echo {START}; exec "$@"', "sh", *argv]
    try:
        done = subprocess.run(
            command(destination, marked if destination else argv),
            input=stdin.encode(),
            capture_output=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        if destination:
            raise Unreachable(
                f"HOST: ssh to {destination} is not possible, this machine has no ssh; install it"
            ) from None
        raise UserError(f"{tool}: not found; set HOST to a machine that has it, such as a login node") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{tool}: no answer within {timeout:g} s; try again when the cluster answers") from None
    printed, errors = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if destination:
        printed = printed.partition(f"{START}\n")[2]
    if done.returncode == 0:
        return printed
    said = _reason(argv[0], errors) or _reason(argv[0], printed) or f"exit code {done.returncode}"
    if destination and done.returncode == SSH_FAILED:
        raise Unreachable(
            f"HOST: ssh {destination} fails: {said.removeprefix('ssh: ').rstrip('.')}; `ssh {destination}` must work "
            "without a question: accept the host's key once, and use a key without a password, or an agent"
        )
    if destination and done.returncode == NOT_FOUND:
        raise Unreachable(f"HOST: {tool} is not found; name a machine that has it, such as a login node")
    raise UserError(f"{tool} fails: {said}")


def _reason(tool: str, said: str) -> str:
    """What a tool says of its failure, in one line: all that it marks as an error, else its last line of its own."""
    lines = [line.strip() for line in said.strip().splitlines()]
    marks = (f"{tool}: error: ", f"{tool}: fatal: ")
    errors = [line.split(": ", 2)[2] for line in lines if line.startswith(marks)]
    own = [line for line in lines if line.startswith(f"{tool}: ")] or lines
    return "; ".join(errors) or "".join(own[-1:]).removeprefix(f"{tool}: ")
