"""Logs and run directories of full-size runs for reports to be made from, and the pages made of them."""

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pages import Page

from dev.support.benchmark_run import SAMPLES, SETTINGS, interval, losses, open_log, train, write_log
from llama31.config import paths
from llama31.mlperf.log.writer import MLPerfLog, copy_to_resume
from llama31.report import command
from llama31.run_dir import record
from llama31.run_dir.events import Evaluation, Outcome, Saved, Step
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.settings import Settings

FLOPS_PER_TOKEN = 6 * 8_030_261_248 + 12 * 32 * 4096 * 8192
PEAKS = {"H200": 989e12, "B200": 2250e12, "MI355X": 2500e12}
TOKEN = ":::MLLOG "


# --- Logs ---------------------------------------------------------------------------------------------------------


def spread(log: Path, seed: int = 1, **before: int) -> Path:
    """Give the lines of a log, which a test writes within a second, times as in a real run, all different.

    `before`: milliseconds, within 3%, that pass before a line with this key.
    """
    chance, now, lines = random.Random(seed), 1_760_000_000_000, []
    takes = {"init_stop": 60_000, "block_stop": 190_000, "eval_accuracy": 9_500, "run_resumed": 1_000_000} | before
    for line in log.read_text().splitlines():
        head, _, text = line.partition(TOKEN)
        fields = json.loads(text)
        now += int(takes.get(fields["key"], 3) * chance.uniform(0.97, 1.03))
        lines.append(f"{head}{TOKEN}{json.dumps(fields | {'time_ms': now})}\n")
    log.write_text("".join(lines))
    return log


def a_log(path: Path, seed: int = 1, settings: Settings = SETTINGS, **how: Any) -> Path:
    """Log of a full-size run, with a seed and times of its own."""
    write_log(path, settings, **how)
    path.write_text(path.read_text().replace('"value": 1234,', f'"value": {seed},'))
    return spread(path, seed)


def step_seconds(step: int) -> float:
    """Time of a step in the tests: all different, the first and some others long."""
    return 0.5 + 0.01 * random.Random(step).random() + (20.0 if step == 1 else 1.5 if step % 997 == 0 else 0.0)


class Metered(MetricsWriter):
    """Gives each step a time and a loss of its own."""

    def step_ended(self, step: Step) -> None:
        number = step.step
        super().step_ended(replace(step, seconds=step_seconds(number), loss=3.2 + 8 / (1 + number / 100)))


def a_run_directory(directory: Path) -> Path:
    """A run that was killed after step 3,000 and resumed from the checkpoint of step 2,880."""
    directory.mkdir()
    settings = replace(SETTINGS, gpu="H200", gpus_per_node=8)
    first = directory / "first job.log"
    log, metrics = open_log(first, settings), Metered(directory / paths.METRICS)
    log.run_started(0)
    whole, rest = losses()[:7], losses()[7:]
    for observer in (log, metrics):
        train(observer, settings, whole)
    end = 7 * interval(settings)
    for step in range(end + 1, 2880 + 1):
        metrics.step_ended(Step(step, step * settings.gbs, 4.0, settings.max_lr, 0.5))
        if step == 2784:
            metrics.checkpoint_saved(Saved(step, step * settings.gbs, "/data/checkpoint", 10**9, 5.0))
    log.close()
    path = directory / paths.MLPERF_LOG
    copy_to_resume(first, path, ())
    first.unlink()
    log = MLPerfLog(path, resumed=True)
    log.run_started(2880 * settings.gbs)
    for step in range(2881, end + interval(settings) + 1):
        metrics.step_ended(Step(step, step * settings.gbs, 4.0, settings.max_lr, 0.5))
    at = (end + interval(settings), (end + interval(settings)) * settings.gbs)
    for observer in (log, metrics):
        observer.evaluation_started(*at)
        evaluation = Evaluation(*at, rest[0], settings.eval_samples, "0" * 16, 10.0, False, memory=93_254_321_000)
        observer.evaluation_ended(evaluation)
        observer.checkpoint_saved(Saved(*at, "/data/checkpoint", 10**9, 4.0))
        train(observer, settings, rest[1:], first=9)
        observer.run_stopped(Outcome("success", "target reached", 0, SAMPLES // settings.gbs, SAMPLES))
    spread(path)
    record.store_settings(directory, settings)
    versions = {"torch": "2.13.0", "megatron-core": "0.15.3"}
    record.store_record(directory, {"versions": versions, "commit": "0123abc", "host": "node7"})
    return directory


@cache
def page_of(output: Path, *given: Path, devices: int | None = None, gpu: str = "") -> Page:
    command.report(given, output, devices, gpu)
    return Page(output)
