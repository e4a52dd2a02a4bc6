"""Programs of Debian that some tests need."""

import os
import shutil
import subprocess
from functools import cache

import lacking


@cache
def install(*packages: str) -> str:
    """Install packages; return the reason if that is not possible, else an empty string."""
    if os.geteuid() or not shutil.which("apt-get"):
        return f"install {' '.join(packages)} to run it (Debian: apt-get install {' '.join(packages)})"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True, check=False)
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return f"apt-get install {' '.join(packages)} failed" if done.returncode else ""


def need(program: str, *packages: str) -> None:
    """Skip the test, saying why, where the program is missing and cannot be installed."""
    if not shutil.which(program) and (reason := install(*packages)):
        lacking.skip(f"{program} is missing: {reason}")
