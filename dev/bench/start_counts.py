"""Count what a start imports and how often it asks the file system, from outside: no code of the command is changed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dev.bench.harness import REPOSITORY

IMPORTED = re.compile(rb"^import time: +\d+", re.M)
"""A line that Python prints for each module with PYTHONPROFILEIMPORTTIME=1."""
TOTAL = re.compile(r"^100\.00 +\S+ +\d+ +(\d+) .*total$", re.M)
"""The last line of strace's summary; the group is the number of calls."""
COUNTING = {"PYTHONPROFILEIMPORTTIME": "1"}
LLM = "from nemo.collections import llm"
"""What every script for NeMo does."""


def modules(log: bytes, before: str = "") -> int:
    """Return how many modules a process with COUNTING imported, by its log, before a text in the log."""
    return len(IMPORTED.findall(log.partition(before.encode())[0] if before else log))


def modules_of(program: str) -> int:
    """Return how many modules a Python program imports, those of the interpreter included."""
    environment = {**os.environ, **COUNTING, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    return modules(done.stderr)


def file_calls(
    command: Sequence[str], file: Path, exit_code: int = 0, environment: Mapping[str, str] | None = None
) -> int | None:
    """Run a command and return its file-system calls that name a file, such as stat and open, with all its processes.

    None if strace is not installed or may not trace here. Exits with an error on another exit code.
    """
    if not shutil.which("strace"):
        return None
    trace = ["strace", "-f", "-qq", "-c", "-e", "trace=%file", "-o", str(file)]
    done = subprocess.run([*trace, *command], env=environment, capture_output=True, text=True, check=False)
    total = TOTAL.search(file.read_text()) if file.is_file() else None
    if done.returncode != exit_code and total:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return int(total[1]) if total else None
