"""A short version of dev/soak.py: a chain that is interrupted at random steps equals an undisturbed run."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import debian
import pytest
from cluster import Cluster
from runs import CUT_RUN, REPOSITORY, arguments, environment

STEPS, CUTS = 40, 3


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="soak-") as name:  # short: Slurm's daemons have sockets in it
        yield Path(name)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_chain_with_random_cuts_equals_an_undisturbed_run(tiny_data: dict[str, str], directory: Path) -> None:
    debian.need("ip", "iproute2")
    with Cluster.started():  # skips if that is not possible here; the soak has its own
        pass
    settings: dict[str, Any] = {**tiny_data, **CUT_RUN, "EVAL_EVERY": 80, "HANG_MINUTES": 0.5}
    del settings["SEEDS"]
    # The seed's ways are SIGTERM to a rank, a network cut and a lost node; others wait for the time limit, a minute.
    options = [f"--steps={STEPS}", f"--cuts={CUTS}", "--networks", "--seed=15"]
    command = [sys.executable, "-m", "dev.soak", directory, *options, *arguments(settings)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{CUTS} cuts: losses, evaluations and state after step {STEPS} equal the reference's" in done.stdout
