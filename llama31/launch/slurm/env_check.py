"""Whether the settings that a job asked for are those that reach a rank: containers lose and replace variables."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named

ASKED = "asked.env"
"""File of a job's directory: NAME=value of all that its script exports, each ended by a zero byte."""


def asked(job_dir: Path) -> dict[str, str]:
    """What the job's script exported. Raises UserError where the directory is not seen."""
    with failures_named(job_dir):
        content = (job_dir / ASKED).read_text(encoding="utf-8", errors="surrogateescape")
    return dict(entry.split("=", 1) for entry in content.split("\0") if entry)


def check(job_dir: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Gives what was asked for. Raises UserError with a line for each variable that arrived otherwise."""
    wanted = asked(job_dir)
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    wrong = [
        f"{name}: {_words(environment.get(name))} arrived on {host}, "
        f"but the job asked for {_words(value)}; look at what sets it in the image or on the node"
        for name, value in wanted.items()
        if environment.get(name) != value
    ]
    if wrong:
        raise UserError(wrong)
    return wanted


def _words(value: str | None) -> str:
    return "nothing" if value is None else f"'{value}'"
