"""Runs for reports in several test files."""

from pathlib import Path
from typing import Any

import pytest
from report_logs import a_log, a_run_directory

from dev.support.benchmark_run import EVALUATIONS, SAMPLES, losses
from llama31.run_dir.events import Outcome


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_run_directory(tmp_path_factory.mktemp("runs") / "a $HOME {of} run & <b>")


@pytest.fixture(scope="module")
def ten_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of ten logs, of runs that are not all as long, the fifth without success."""
    directory = tmp_path_factory.mktemp("ten_logs")
    for number in range(10):
        aborted = Outcome("aborted", "the data ended", 3, 5376, SAMPLES)
        how: dict[str, Any] = {"validation_losses": losses(evaluations=EVALUATIONS - number % 4)}
        if number == 4:
            how = {"validation_losses": [4.0] * EVALUATIONS, "outcome": aborted}
        a_log(directory / f"result_{number}.txt", 1000 + number, **how)
    return directory
