"""Run directories for the table of runs, and the rows that it shows of them."""

import io
from pathlib import Path
from typing import Any

from dev.support import benchmark_run
from llama31.config import paths
from llama31.run_dir import record
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.status import status


def printed(*directories: Path) -> list[str]:
    """Lines of the table."""
    out = io.StringIO()
    status.status(directories, out)
    return out.getvalue().splitlines()


def row(run_dir: Path) -> tuple[str, list[str]]:
    """What the table says of one run: the words after its name, and its figures, word by word."""
    found, _ = status.collect([run_dir])
    assert [one.text.startswith(run_dir.name) for one in found] == [True], found
    return found[0].text.removeprefix(run_dir.name).strip(), list(found[0].figures)


def write_run(run_dir: Path, evaluations: int, settings: Any = benchmark_run.SETTINGS) -> Path:
    """The directory of a full-size run after so many evaluations, as its writers leave it."""
    run_dir.mkdir(parents=True)
    record.store_settings(run_dir, settings)
    writer = MetricsWriter(run_dir / paths.METRICS)
    benchmark_run.train(writer, settings, benchmark_run.losses(settings.target)[:evaluations])
    benchmark_run.open_log(run_dir / paths.MLPERF_LOG, settings)
    return run_dir
