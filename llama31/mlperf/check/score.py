"""Time to train and samples of a run, and the score of a submission."""

from collections.abc import Sequence
from statistics import fmean

from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import Log, is_number, is_whole


def minutes(log: Log) -> float | None:
    """Return the minutes from run_start to run_stop; None if one is missing or they are in the wrong order."""
    begin, end = log.first(constants.RUN_START), log.last(constants.RUN_STOP)
    return (end.time_ms - begin.time_ms) / 60_000 if begin and end and begin.time_ms <= end.time_ms else None


def has_converged(log: Log) -> bool:
    """Return whether the last evaluation with a loss reached the target, regardless of the run's status."""
    losses = [record.value for record in log.all(constants.EVAL_ACCURACY) if is_number(record.value)]
    return bool(losses) and losses[-1] <= log.target


def samples(log: Log) -> int | None:
    """Return the training sequences at the last eval_accuracy, as rcp_checker counts them, or None."""
    last = log.last(constants.EVAL_ACCURACY)
    return int(last.samples) if last and is_whole(last.samples, 0) else None


def says_success(log: Log) -> bool:
    """Return whether the run's status is success; its losses may contradict it."""
    end = log.last(constants.RUN_STOP)
    return end is not None and end.metadata.get(constants.STATUS) == constants.SUCCESS


def olympic_mean(values: Sequence[float]) -> float:
    """Return the mean of three or more values without the smallest and the largest; a failed run is infinite."""
    return fmean(sorted(values)[1:-1])
