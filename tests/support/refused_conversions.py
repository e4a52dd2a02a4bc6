"""Runs `llama31 convert` where it must refuse its input before torch is imported."""

import subprocess
import sys
from pathlib import Path

from checkout import REPOSITORY

TIMEOUT = 60  # seconds; a refusal takes less than one
WITHOUT_TORCH = """
import sys
sys.modules.update(dict.fromkeys(("megatron", "nemo", "safetensors", "torch", "transformers")))
from llama31.cli import main as cli
cli.main()
"""


def refusal(source: Path, destination: Path, *options: str) -> list[str]:
    """The lines with which the command refuses, where importing torch would fail."""
    command = [sys.executable, "-c", WITHOUT_TORCH, "convert", f"--source={source}", f"--destination={destination}"]
    done = subprocess.run(
        [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    return done.stderr.splitlines()
