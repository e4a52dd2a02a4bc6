"""Programs of Debian that some tests need."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import lacking


@cache
def install(*packages: str) -> str:
    """Install packages; return the reason if that is not possible, else an empty string."""
    if os.geteuid() or not shutil.which("apt-get"):
        return f"install {' '.join(packages)} to run it (Debian: apt-get install {' '.join(packages)})"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
    with Path(tempfile.gettempdir(), "llama31-apt.lock").open("w") as lock:  # tests run in two processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True, check=False)
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return f"apt-get install {' '.join(packages)} failed" if done.returncode else ""


def need(program: str, *packages: str) -> None:
    """Skip the test, saying why, where the program is missing and cannot be installed."""
    if not shutil.which(program) and (reason := install(*packages)):
        lacking.skip(f"{program} is missing: {reason}")
