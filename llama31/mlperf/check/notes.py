"""Notes on what is unusual in a log and breaks no rule."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from statistics import multimode

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.mlperf.check import losses, rcp_misreadings, spelling
from llama31.mlperf.check.score import minutes
from llama31.mlperf.log.records import OPTIONAL_KEYS, TARGET_ACCURACY, Log, Record, is_number, is_whole, listed
from llama31.settings import Status

STATUSES = [status.value for status in Status]


def notes(log: Log) -> Iterator[str]:
    """Yield what is unusual in a log."""
    searched = rcp_misreadings.notes(log) if log.is_closed else ()
    return chain(_keys(log), _end(log), _cadence(log), _lags(log), losses.notes(log), searched)


def _keys(log: Log) -> Iterator[str]:
    """Yield missing keys that no rule requires, and unusual values that no rule fixes."""
    for key in OPTIONAL_KEYS:
        if not log.first(key):
            hint = f" ({near})" if (near := spelling.near(key, log)) else ""
            yield f"{key}: not in the log{hint}" + (f", assumed {rules.TARGET}" if key == TARGET_ACCURACY else "")
    for record in log.all(constants.SUBMISSION_STATUS):
        if record.value not in STATUSES:
            yield f"{record.key}: {record}, not one of {', '.join(STATUSES)}; no ruleset checks it"
    if log.is_closed:
        for record in log.all(constants.SUBMISSION_ORG, constants.SUBMISSION_PLATFORM):
            if record.value == "unset" or "PLACEHOLDER" in str(record.value):
                yield f"{record.key}: {record.value}; set {record.key.upper()} before a submission"
        if any(record.value is not True for record in log.all(constants.CACHE_CLEAR)):
            yield f"{constants.CACHE_CLEAR}: the log does not say that the system's caches were cleared"
    elif log.declared == []:
        yield f"{constants.SUBMISSION_DIVISION}: open by choice; the log declares no departure"


def _end(log: Log) -> Iterator[str]:
    if log.first(constants.RUN_START) and log.first(constants.RUN_STOP) and minutes(log) is None:
        yield f"{constants.RUN_STOP}: is before {constants.RUN_START}; no time to train"


def _cadence(log: Log) -> Iterator[str]:
    """Yield evaluations that are more frequent than the rule requires."""
    counts = [record.samples for record in log.all(constants.EVAL_START)]
    if not counts or not log.schedule or not all(is_whole(samples, 1) for samples in counts):
        return
    interval, first = log.schedule
    counts = [first - interval, *counts]
    gaps = [after - before for before, after in pairwise(counts)]
    if min(gaps) <= 0:
        return
    usual = max(multimode(gaps))
    if gaps.count(usual) <= len(gaps) / 2 or usual > interval:
        usual = interval
    if usual < interval:
        yield f"{constants.EVAL_START}: evaluations every {usual:,} training sequences; the rule is {interval:,}"
    if additional := _additional(counts, usual):
        evaluations = f"{len(additional)} additional evaluation{'s' if len(additional) > 1 else ''}"
        after = listed([f"{samples:,}" for samples in additional])
        yield f"{constants.EVAL_START}: {evaluations}, after {after} training sequences"


def _additional(counts: Sequence[int], usual: int) -> list[int]:
    """Return the evaluations that could be left out with gaps of at most `usual` sequences; counts[0] is the start."""
    kept, found = counts[0], []
    for samples, following in pairwise(counts[1:]):
        if following - kept <= usual:
            found.append(samples)
        else:
            kept = samples
    return [*found, counts[-1]] if counts[-1] - kept < usual else found


def _lags(log: Log) -> Iterator[str]:
    """Yield keys whose sample counts differ from the eval_start next to them."""
    pairs_by_key = {
        constants.EVAL_ACCURACY: log.followed(constants.EVAL_START, constants.EVAL_ACCURACY),
        constants.BLOCK_STOP: log.followed(constants.BLOCK_STOP, constants.EVAL_START),
    }
    for key, pairs in pairs_by_key.items():
        lags = {_lag(before, after) for before, following in pairs for after in following[:1]} - {0}
        if not lags:
            continue
        note = f"{key}: samples_count is not that of the {constants.EVAL_START} next to it"
        if key == constants.EVAL_ACCURACY:
            lag = lags.pop() if len(lags) == 1 else None
            behind = f", but {lag:,} less" if lag and lag > 0 else ""
            note += f"{behind}; samples to converge are those of {key}, as rcp_checker counts them"
        yield note


def _lag(before: Record, after: Record) -> int | float | None:
    """Return how many samples fewer the second record counts than the first; None if a count is no number."""
    if before.samples == after.samples:
        return 0
    return before.samples - after.samples if is_number(before.samples) and is_number(after.samples) else None
