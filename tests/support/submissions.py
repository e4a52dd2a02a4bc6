"""Run directories of a submission: ten full-size runs with MLPerf logs and metrics by the writers of a run."""

import gzip
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mlperf_logging.compliance_checker import mlp_compliance
from mlperf_logging.package_checker import package_checker

from dev.support.benchmark_run import SETTINGS, interval, losses, write_log
from llama31 import rules
from llama31.config import paths
from llama31.run_dir import record
from llama31.run_dir.events import TARGET_NOT_REACHED, Evaluation, Outcome
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.settings import Settings

NEWEST = rules.RULESETS[-1]
TOKEN = ":::MLLOG "
EVALUATIONS = (14, 15, 14, 15, 15, 14, 16, 14, 15, 15)
"""Of ten runs at a global batch size of 32, as the reference's are: 14 x 12,288 is 172,032 samples."""


def write_run(
    directory: Path,
    settings: Settings = SETTINGS,
    *,
    seed: int,
    evaluations: int = 14,
    minutes: float = 30.0,
    **more: Any,
) -> Path:
    """A run directory that reached the target at its last evaluation, after so many minutes."""
    directory.mkdir(parents=True)
    validation_losses = more.pop("validation_losses", losses(settings.target, evaluations))
    log = write_log(directory / paths.MLPERF_LOG, settings, seed=seed, validation_losses=validation_losses, **more)
    edit(log, "run_stop", lambda line: line | {"time_ms": fields(log, "run_start")["time_ms"] + minutes * 60_000})
    write_metrics(directory, settings, validation_losses)
    record.store_settings(directory, settings)
    record.store_record(directory, {"commit": None, "python": "3.11.7", "versions": {"torch": "2.13.0"}})
    return directory


def write_metrics(
    directory: Path, settings: Settings, validation_losses: Sequence[float], token_hash: str = "0" * 16
) -> None:
    """The evaluations of a run's metrics."""
    writer = MetricsWriter(directory / paths.METRICS)
    for number, loss in enumerate(validation_losses, start=1):
        step = number * interval(settings)
        reached = loss <= settings.target
        writer.evaluation_ended(
            Evaluation(step, step * settings.gbs, loss, settings.eval_samples, token_hash, 10.0, reached)
        )


def ten_runs(directory: Path, settings: Settings = SETTINGS, evaluations: Sequence[int] = EVALUATIONS) -> list[Path]:
    """Runs that differ in seed and length, each twice as many minutes long as it has evaluations."""
    return [
        write_run(directory / f"run-{number}", settings, seed=100 + number, evaluations=count, minutes=2.0 * count)
        for number, count in enumerate(evaluations)
    ]


def missed(log: Path, settings: Settings = SETTINGS, *, seed: int, evaluations: int = 20) -> Path:
    """The log of a run that ended above its target."""
    log.unlink(missing_ok=True)
    found = [settings.target + 0.2] * evaluations
    steps = evaluations * interval(settings)
    outcome = Outcome("aborted", "out of steps", TARGET_NOT_REACHED, steps, steps * settings.gbs)
    return write_log(log, settings, seed=seed, validation_losses=found, outcome=outcome)


def fields(log: Path, key: str) -> dict[str, Any]:
    """What the first line of a key says."""
    lines = (json.loads(line.partition(TOKEN)[2]) for line in log.read_text().splitlines())
    return next(line for line in lines if line["key"] == key)


def edit(log: Path, key: str, change: Any) -> None:
    """Changes a key's lines, each given and returned as a dictionary; None leaves it out."""
    kept = []
    for line in log.read_text().splitlines():
        said = json.loads(line.partition(TOKEN)[2])
        changed = change(said) if said["key"] == key else said
        if changed is not None:
            kept.append(TOKEN + json.dumps(changed) + "\n")
    log.write_text("".join(kept))


def officially_packaged(logs: Sequence[Path], ruleset: str, tree: Path) -> bool:
    """Whether MLCommons' package checker accepts ten logs, which may be compressed, in a new tree."""
    shutil.rmtree(tree, ignore_errors=True)
    results = tree / "results" / "box" / rules.BENCHMARK
    results.mkdir(parents=True)
    (tree / "systems").mkdir()
    (tree / "systems" / "box.json").write_text('{"division": "closed"}')
    for number, log in enumerate(logs):
        content = log.read_bytes()
        content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        (results / f"result_{number}.txt").write_bytes(content)
    try:
        return package_checker.check_training_result_files(
            str(tree), "training", ruleset, quiet=True, werror=False,
            rcp_bypass=False, rcp_bert_train_samples=False, seed_checker_bypass=False,
        )  # fmt: skip
    except (TypeError, KeyError, NameError):  # as at a loss that is null
        return False


@contextmanager
def rule_files_parsed_once() -> Iterator[None]:
    """The official checker parses its YAML for every log, which is most of the time that such tests would take."""

    @cache
    def parsed(name: str) -> Any:
        return yaml.load(Path(name).read_text(), Loader=yaml.BaseLoader)  # noqa: S506

    fake = SimpleNamespace(load=lambda file, **_: parsed(file.name), BaseLoader=yaml.BaseLoader)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlp_compliance, "yaml", fake)
        yield
