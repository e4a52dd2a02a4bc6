"""Fixtures of the tests of MLPerf logs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from edited_logs import full_log
from packed_runs import ORG, describe, later
from submissions import (
    NEWEST,
    fields,
    rule_files_parsed_once,
    ten_runs,
    write_run,
)

from llama31.config import paths
from llama31.mlperf.package import package


@pytest.fixture(scope="module")
def rule_files_are_parsed_once() -> Iterator[None]:
    with rule_files_parsed_once():
        yield


@pytest.fixture
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines of a full-size benchmark run's log, for a test to edit."""
    return list(full_log(tmp_path_factory.getbasetemp()))


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path / f"run-{seed}", seed=seed, evaluations=13 + seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten runs and the tree made from them, once; `fresh` returns copies to edit."""
    directory = tmp_path_factory.mktemp("a $HOME [of] runs")
    runs = ten_runs(directory)
    begin = fields(runs[0] / paths.MLPERF_LOG, "run_start")["time_ms"]
    for number, run in enumerate(runs):  # run 9 began first, and so on
        log = run / paths.MLPERF_LOG
        offset = begin - fields(log, "run_start")["time_ms"] - number * 10_000_000
        log.write_text("".join(later(line, offset) for line in log.read_text().splitlines(keepends=True)))
    with rule_files_parsed_once():
        assert package.package(ORG, describe(directory), runs, directory / "out", NEWEST) == 0
    return directory


@pytest.fixture
def fresh(written: Path, tmp_path: Path) -> Path:
    """A copy of runs, system description and tree."""
    return shutil.copytree(written, tmp_path / "copy")
