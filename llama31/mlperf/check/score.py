"""Time to train, and the score of several runs."""

from collections.abc import Sequence
from statistics import fmean

from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import Log, is_number, is_whole


def minutes(log: Log) -> float | None:
    """Time to train: from run_start to run_stop, in minutes; None where that is not there, or lies before the start."""
    begin, end = log.first(constants.RUN_START), log.last(constants.RUN_STOP)
    return (end.time_ms - begin.time_ms) / 60_000 if begin and end and begin.time_ms <= end.time_ms else None


def has_converged(log: Log) -> bool:
    """The run reached its target at its last evaluation that has a loss, whatever it says of its end."""
    losses = [record.value for record in log.all(constants.EVAL_ACCURACY) if is_number(record.value)]
    return bool(losses) and losses[-1] <= log.target


def has_succeeded(log: Log) -> bool:
    """The run reached its target and says so: its time counts."""
    return has_converged(log) and says_success(log)


def samples(log: Log) -> int | None:
    """Training sequences up to the last evaluation, as rcp_checker counts them: from eval_accuracy."""
    last = log.last(constants.EVAL_ACCURACY)
    return int(last.samples) if last and is_whole(last.samples, 0) else None


def says_success(log: Log) -> bool:
    """The log says that its run reached the target; its losses may say otherwise."""
    end = log.last(constants.RUN_STOP)
    return end is not None and end.metadata.get(constants.STATUS) == constants.SUCCESS


def olympic_mean(values: Sequence[float]) -> float:
    """Mean without the smallest and the largest, of at least three values; a run that did not converge is infinite."""
    return fmean(sorted(values)[1:-1])
