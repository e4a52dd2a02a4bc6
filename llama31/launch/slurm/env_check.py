"""Check that a job's variables reach its ranks: containers drop and replace variables."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named

ASKED = "asked.env"
"""File in a job's directory with NAME=value for each variable that its script exports, each ended by a zero byte."""


def asked(job_dir: Path) -> dict[str, str]:
    """Return the variables that the job's script exported. Raises UserError if the directory is not visible."""
    with failures_named(job_dir):
        content = (job_dir / ASKED).read_text(encoding="utf-8", errors="surrogateescape")
    return dict(entry.split("=", 1) for entry in content.split("\0") if entry)


def check(job_dir: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Compare the environment with `asked` and return that. Raises UserError with a line for each difference."""
    wanted = asked(job_dir)
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    differences = [
        f"{name}: is {_quoted(environment.get(name))} on {host}, "
        f"but the job exported {_quoted(value)}; check what sets it in the image or on the node"
        for name, value in wanted.items()
        if environment.get(name) != value
    ]
    if differences:
        raise UserError(differences)
    return wanted


def _quoted(value: str | None) -> str:
    return "unset" if value is None else f"'{value}'"
