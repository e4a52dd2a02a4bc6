"""The file by which a job's ranks are warned that time runs out."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama31.config import paths
from llama31.launch.slurm import env_check
from llama31.run_dir import time_limit_warning
from llama31.run_dir.events import INTERRUPTED


@pytest.fixture
def held() -> Iterator[set[signal.Signals]]:
    """SIGUSR1, which waits until it is asked for."""
    signals = {signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    yield signals
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


@pytest.mark.parametrize("written", ["before", "after"])
def test_a_warning_is_a_signal_to_the_main_thread(written: str, held: set[signal.Signals], tmp_path: Path) -> None:
    file = tmp_path / time_limit_warning.FILE
    file.write_text("1" if written == "before" else "")
    time_limit_warning.watch(tmp_path)
    if written == "after":
        assert signal.sigtimedwait(held, 0) is None
        file.write_text("1")
    assert signal.sigtimedwait(held, 60), "no signal came"
    assert signal.sigtimedwait(held, 0) is None, "it comes once"


def test_where_no_file_is_nothing_is_watched(tmp_path: Path) -> None:
    before = threading.active_count()
    time_limit_warning.watch(tmp_path)
    assert threading.active_count() == before


def test_a_file_that_cannot_be_read_for_a_while(
    held: set[signal.Signals], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a file server restarts, simulated by a missing file."""
    file = tmp_path / time_limit_warning.FILE
    file.touch()
    monkeypatch.setattr(time_limit_warning, "INTERVAL", 0.01)
    time_limit_warning.watch(tmp_path)
    file.unlink()
    assert signal.sigtimedwait(held, 0.1) is None
    file.write_text("1")
    assert signal.sigtimedwait(held, 60), "no signal came"


def test_a_warning_before_training_ends_the_job(tmp_path: Path) -> None:
    """It comes while the job reads its settings, here a pipe without a writer."""
    os.mkfifo(tmp_path / env_check.ASKED)
    (tmp_path / time_limit_warning.FILE).write_text("1")
    command = [sys.executable, "-m", "llama31.launch.slurm.job", "begin", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=paths.REPOSITORY, check=False)
    assert done.returncode == INTERRUPTED, done.stderr
    assert done.stderr == "the time limit was reached before training started; a longer TIME works\n"
