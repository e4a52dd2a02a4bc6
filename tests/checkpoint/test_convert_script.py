"""The script that converts checkpoints, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import REPOSITORY
from conversions import TIMEOUT

from llama31.checkpoint.formats import hugging_face, nemo
from llama31.common.units import size

pytestmark = pytest.mark.slow


# --- The commands -------------------------------------------------------------------------------------------------


def run_script(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run utils/launch_nemo_convert.sh."""
    taken = ("SLURM", "CONT_IMAGE", "SRC_PATH", "DST_PATH")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    return subprocess.run(
        ["bash", REPOSITORY / "utils" / "launch_nemo_convert.sh"],
        env={**ours, "LLAMA31_VENV": sys.prefix, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_the_script_converts(models: Path, converted: Path, tmp_path: Path) -> None:
    destination = tmp_path / "a new place" / "check $point"
    done = run_script(SRC_PATH=str(models / "3.1"), DST_PATH=str(destination))
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("logits of 64 tokens, fp32: largest difference ")
    assert last == f"{destination}: complete"
    bytes_ = size(hugging_face.inspect(models / "3.1").bytes())
    assert done.stderr.splitlines() == [f"{models / '3.1'}: 39 tensors, {bytes_}; converting"]
    ours, expected = nemo.inspect(destination), nemo.inspect(converted / "3.1")
    assert ours.architecture == expected.architecture
    for key in ours.tensors:
        assert torch.equal(ours.tensor(key, 1), expected.tensor(key, 1))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "SRC_PATH: set it to the directory of the Hugging Face checkpoint"),
        ({"SRC_PATH": "somewhere"}, "DST_PATH: set it to the directory to make"),
        ({"SRC_PATH": "somewhere", "DST_PATH": "else"}, "/somewhere: no such directory"),
        (
            {"SRC_PATH": "somewhere", "DST_PATH": "else", "CONT_IMAGE_URL": "image"},
            "CONT_IMAGE_URL=image needs Slurm; within the container, unset it",
        ),
    ],
    ids=str,
)
def test_the_script_refuses(given: dict[str, str], says: str) -> None:
    done = run_script(**given)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
