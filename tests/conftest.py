"""Fixtures for all tests.

Modules of tests/support are imported by their plain names: NeMo installs a package that is called `tests`.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lacking
import pytest
from claimed import claim_benchmark_data
from cluster import Cluster
from runs import Run, run_forked
from tiny import as_downloaded, make_data

from llama31.checkpoint import store
from llama31.run_dir.events import TARGET_NOT_REACHED

pytest_plugins = ["golden"]

MARK_OF_FIXTURE = {"trained": "slow", "cluster": "slurm"}
"""Fixtures that train or start Slurm -> mark of the tests that use them, directly or not."""

# A shell that starts the tests in the background makes them, and their children, ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use."""
    for item in items:
        for fixture, mark in MARK_OF_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()) and not item.get_closest_marker(mark):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that name tiny.py's data, made once; a shell or a format string would fail on the path."""
    return make_data(tmp_path_factory.mktemp("data") / "a $HOME {of} data")


@pytest.fixture(scope="session")
def benchmark_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that name data of the benchmark's dimensions, for plans: it cannot be read."""
    return claim_benchmark_data(tmp_path_factory.mktemp("benchmark data"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Slurm of two nodes, started once (3 s); no test leaves a job or a node of it down."""
    with Cluster.started() as cluster:
        yield cluster


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 7 MB."""
    disk = tmp_path / "small disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", disk]
    if subprocess.run(mount, check=False).returncode:
        lacking.skip("only root can mount a small file system to fill up")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def usual(tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Settings of a valid run on the CPU, on a machine without a GPU.

    The data is enough for 262 sequences of validation and 2,480 of training.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    small = {"SIZE": "tiny", "DEVICE": "cpu", "SEQ_LENGTH": "32", "GBS": "8", "EVAL_SAMPLES": "16"}
    return {**tiny_data, **small, "JOB_DIR": str(tmp_path / "runs")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Directory for a run's checkpoints."""
    return tmp_path / "my checkpoints"


@pytest.fixture
def saving(usual: dict[str, str], root: Path) -> dict[str, str]:
    """Settings of such a run that saves there, of seed 7."""
    return {**usual, "SAVE_CKPT": "1", "CONTINUAL_CKPT": str(root), "SEEDS": "7"}


@pytest.fixture(scope="session")
def settings_of_trained(tiny_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of runs that save."""
    directory = tmp_path_factory.mktemp("trained")
    return {
        **tiny_data,
        "TOKENIZER_PATH": as_downloaded(Path(tiny_data["TOKENIZER_PATH"]), directory / "model"),
        "JOB_DIR": directory / "runs",
        "SIZE": "tiny",
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "SEQ_LENGTH": 32,
        "GBS": 4,
        "MBS": 2,
        "MAX_LR": 1e-3,
        "WARMUP_STEPS": 5,
        "EVAL_EVERY": 16,
        "EVAL_SAMPLES": 8,
        "SEEDS": 1,
    }


@pytest.fixture(scope="session")
def trained(settings_of_trained: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run of 8 steps that saves by time, after each step, and its last checkpoint; read-only."""
    root = tmp_path_factory.mktemp("checkpoints")
    saving = {"SAVE_CKPT": 1, "CONTINUAL_CKPT": root, "SAVE_EVERY_MINUTES": 1e-6, "KEEP_LAST": 3}
    run = run_forked({**settings_of_trained, **saving, "STOP_AT_STEP": 8})
    assert run.exit_code == TARGET_NOT_REACHED, run.printed + run.logs()
    return run, store.listing(root)[0].path
