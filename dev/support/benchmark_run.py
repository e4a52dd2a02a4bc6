"""Write a full-size run's events, as the trainer reports them, to a real MLPerf log."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llama31 import rules
from llama31.mlperf.log.writer import LowestPrecision, MLPerfLog
from llama31.run_dir.events import Evaluation, Observer, Outcome, Step
from llama31.settings import Settings

SETTINGS = replace(Settings(), submission_org="Example", submission_platform="8xH200", config_filename="/x/config.sh")
SEED = 1234
EVALUATIONS = 14
SAMPLES = 172_032  # 14 evaluations, each after 384 steps of 32 sequences
STEP_SECONDS = 0.5


def losses(target: float = rules.TARGET, evaluations: int = EVALUATIONS) -> list[float]:
    """Validation losses of which the last is the first to reach the target."""
    return [target - 0.01 + 0.1 * left for left in reversed(range(evaluations))]


def write_log(
    path: Path,
    settings: Settings = SETTINGS,
    *,
    departures: Sequence[str] = (),
    seed: int = SEED,
    validation_losses: Sequence[float] | None = None,
    outcome: Outcome | None = None,
) -> Path:
    """Writes the log of a run that evaluates to `validation_losses`; it succeeds unless `outcome` says otherwise."""
    log = open_log(path, settings, departures, seed)
    log.run_started(0)
    evaluations = losses(settings.target) if validation_losses is None else validation_losses
    train(log, settings, evaluations)
    samples = len(evaluations) * interval(settings) * settings.gbs
    log.run_stopped(outcome or Outcome("success", "target reached", 0, samples // settings.gbs, samples))
    return path


def open_log(path: Path, settings: Settings = SETTINGS, departures: Sequence[str] = (), seed: int = SEED) -> MLPerfLog:
    """A log that says what runs, up to where training starts."""
    log = MLPerfLog(path)
    log.init_started(caches_cleared=True)
    log.describe(settings, seed=seed, data_parallel_size=8, train_samples=4_000_000, departures=departures)
    log.describe_precision(LowestPrecision("bfloat16", "bfloat16", "bfloat16"))
    return log


def interval(settings: Settings) -> int:
    """Optimizer steps between evaluations."""
    return rules.steps_between_evaluations(settings.eval_every, settings.gbs)


def train(observer: Observer, settings: Settings, validation_losses: Sequence[float], first: int = 1) -> None:
    """Trains up to each evaluation in turn, from START_EVAL_AT on; `first` is the number of the first one."""
    steps = interval(settings)
    for number, loss in enumerate(validation_losses, start=first):
        end = number * steps
        for step in range(end - steps + 1, end + 1):
            observer.step_ended(Step(step, step * settings.gbs, 4.0, settings.max_lr, STEP_SECONDS))
        samples = end * settings.gbs
        if samples >= settings.start_eval_at:
            observer.evaluation_started(end, samples)
            reached = loss <= settings.target
            observer.evaluation_ended(Evaluation(end, samples, loss, settings.eval_samples, "0" * 16, 10.0, reached))
