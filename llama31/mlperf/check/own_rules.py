"""Rules that MLCommons' compliance checker does not check.

How the run ended, whether evaluations were skipped, whether sample counts are exact and values consistent.
Each function yields the violations of one aspect. Logs that MLCommons published have lagging sample counts
(eval_accuracy a batch behind, blocks that restart from 0): these are notes (`llama31.mlperf.check.notes`).
"""

import math
from collections.abc import Iterator
from itertools import chain, pairwise

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.mlperf.check.score import minutes
from llama31.mlperf.log.records import (
    ABOVE_ZERO,
    OPTIONAL_KEYS,
    TARGET_ACCURACY,
    Log,
    Record,
    Violation,
    count,
    is_number,
    is_whole,
    shown,
)

OPENING = (
    constants.CACHE_CLEAR,
    constants.INIT_START,
    constants.SUBMISSION_BENCHMARK,
    constants.SUBMISSION_DIVISION,
    constants.SUBMISSION_ORG,
    constants.SUBMISSION_PLATFORM,
    constants.RUN_START,
)
"""Keys at the start of a log."""
TRAINING_KEYS = (constants.BLOCK_START, constants.EPOCH_START, constants.EVAL_START)

LEAST_WHOLE_NUMBER = {
    constants.SEED: 0,
    constants.GLOBAL_BATCH_SIZE: 1,
    constants.MICRO_BATCH_SIZE: 1,
    constants.GRADIENT_ACCUMULATION_STEPS: 1,
    constants.MAX_SEQUENCE_LENGTH: 1,
    constants.TRAIN_SAMPLES: 1,
    constants.EVAL_SAMPLES: 1,
    constants.MAX_STEPS: 1,
    constants.OPT_LR_WARMUP_STEPS: 0,
    constants.INIT_CHECKPOINT_STEP: 0,
}
POSITIVE_NUMBERS = (constants.OPT_BASE_LR, constants.EVAL_ACCURACY, TARGET_ACCURACY)


def values(log: Log) -> Iterator[Violation]:
    """Yield impossible values, and those that the closed division fixes although the official checker does not."""
    for key in (constants.SEED, *OPTIONAL_KEYS):
        different = {shown(record.value) for record in log.all(key)}
        if len(different) > 1 or (key == constants.SEED and not different):
            yield Violation(key, count(log.all(key)), "exactly one line")
    for record in log.all(*LEAST_WHOLE_NUMBER):
        least = LEAST_WHOLE_NUMBER[record.key]
        if not is_whole(record.value, least):
            yield Violation(record.key, str(record), f"a whole number, {least} or more")
    for record in log.all(*POSITIVE_NUMBERS):
        if not is_number(record.value) or record.value <= 0:
            yield Violation(record.key, str(record), ABOVE_ZERO)
    for key, rule in ((TARGET_ACCURACY, rules.TARGET), (constants.INIT_CHECKPOINT_STEP, 0)):
        if log.first(key) and log.value(key) != rule:
            yield Violation(key, shown(log.value(key)), str(rule), may_depart=True)
    if log.is_closed and log.declared:
        yield Violation(constants.SUBMISSION_DIVISION, "closed, with departures declared", constants.OPEN)


def relations(log: Log) -> Iterator[Violation]:
    """Yield values that contradict each other."""
    base, end = log.value(constants.OPT_BASE_LR), log.value(constants.OPT_END_LR)
    if is_number(base) and log.first(constants.OPT_END_LR) and end != rules.end_learning_rate(base):
        wants = f"{rules.end_learning_rate(base)}, which is {rules.END_LR_FRACTION} x {constants.OPT_BASE_LR}"
        yield Violation(constants.OPT_END_LR, shown(end), wants, may_depart=is_number(end))

    steps, warmup = log.whole(constants.MAX_STEPS), log.value(constants.OPT_LR_WARMUP_STEPS)
    decay = log.value(constants.OPT_LR_DECAY_STEPS)
    if steps and steps != rules.MAX_STEPS and is_number(warmup) and decay != steps - warmup:
        wants = f"{steps - warmup}, which is {constants.MAX_STEPS} less the warmup steps"
        yield Violation(constants.OPT_LR_DECAY_STEPS, shown(decay), wants)

    batch = log.whole(constants.GLOBAL_BATCH_SIZE)
    micro = log.whole(constants.MICRO_BATCH_SIZE) or 1
    accumulated = log.whole(constants.GRADIENT_ACCUMULATION_STEPS) or 1
    if batch and batch % (micro * accumulated):
        wants = f"a multiple of {constants.MICRO_BATCH_SIZE} x {constants.GRADIENT_ACCUMULATION_STEPS}"
        yield Violation(constants.GLOBAL_BATCH_SIZE, str(batch), f"{wants}, {micro} x {accumulated}")


def second_run(log: Log) -> Record | None:
    """Return the record at which a second run in the file begins, or None.

    It repeats a key of the start of a log, either after run_start, or between two descriptions of a run of which the
    first ended before run_start.
    """
    begin, sizes = log.first(constants.RUN_START), log.all(constants.GLOBAL_BATCH_SIZE)
    opened, is_trained = set(), False
    for record in log.records:
        is_started = begin is not None and record.number > begin.number
        is_between = bool(sizes) and sizes[0].number < record.number < sizes[-1].number
        is_opening = record.key in opened and (is_trained or record.key != constants.RUN_START)
        if is_opening and (is_started or is_between):
            return record
        if record.key in OPENING:
            opened.add(record.key)
        is_trained |= record.key in TRAINING_KEYS
    return None


def order(log: Log) -> Iterator[Violation]:
    """Yield events that are too early, too late, repeated or missing."""
    intervals = ((constants.BLOCK_START, constants.BLOCK_STOP), (constants.EVAL_START, constants.EVAL_STOP))
    last = max(log.all(*chain(*intervals)), key=lambda record: record.number, default=None)
    for start, stop in intervals:
        turn = [record for record in log.records if record.key in (start, stop)]
        wants = f"{start} and {stop} in turn"
        for index, record in enumerate(turn):
            if record.key != (start, stop)[index % 2]:
                before = f"line {turn[index - 1].number}" if index else "no line"
                yield Violation(record.key, f"one in line {record.number}, next after {before}", wants)
                break
        else:
            if len(turn) % 2:
                yield Violation(stop, f"none after line {turn[-1].number}", wants, of_end=turn[-1] is last)
    number = len(log.all(constants.EVAL_ACCURACY))
    counts = [len(results) for _, results in log.followed(constants.EVAL_START, constants.EVAL_ACCURACY)]
    if counts != [1] * number:
        trains_again = any(blocks for _, blocks in log.followed(constants.EVAL_START, constants.BLOCK_START)[-1:])
        is_cut_off = counts == [1] * number + [0] and not trains_again
        found = f"{number} lines for {len(counts)} evaluations"
        yield Violation(constants.EVAL_ACCURACY, found, "one for each", of_end=is_cut_off)

    for key in (constants.RUN_START, constants.RUN_STOP):  # the official checker accepts two equal ones
        if len(log.all(key)) > 1:
            yield Violation(key, count(log.all(key)), "exactly one line")
    timed = {*chain(*intervals), constants.RUN_START, constants.EVAL_ACCURACY, constants.RUN_STOP}
    for earlier, record in pairwise(record for record in log.records if record.key in timed):
        if not earlier.time_ms <= record.time_ms < math.inf:
            found = f"time_ms {record.time_ms:.0f} in line {record.number}, after {earlier.time_ms:.0f}"
            yield Violation(record.key, found, "times that do not decrease")
            break

    begin, end = log.first(constants.RUN_START), log.last(constants.RUN_STOP)
    for record in log.all(*chain(*intervals), constants.EVAL_ACCURACY):
        if (begin and record.number < begin.number) or (end and record.number > end.number):
            yield Violation(record.key, f"one in line {record.number}", "to be between run_start and run_stop")


def evaluations(log: Log) -> Iterator[Violation]:
    """Yield skipped evaluations, and sample counts that are not exact."""
    batch, schedule = log.whole(constants.GLOBAL_BATCH_SIZE), log.schedule
    if batch is None or schedule is None:
        yield Violation(constants.GLOBAL_BATCH_SIZE, "no number", "a number, which sets when evaluations are due")
        return
    starts, losses, end = log.all(constants.EVAL_START), log.all(constants.EVAL_ACCURACY), log.last(constants.RUN_STOP)
    for record in starts + losses:
        if not is_whole(record.samples, 1) or record.samples % batch:
            found = f"samples_count {shown(record.samples)} in line {record.number}"
            yield Violation(record.key, found, f"the training sequences so far, a multiple of {batch}")
            return
    results = log.followed(constants.EVAL_START, constants.EVAL_ACCURACY)
    odd = [(start, of_one[0]) for start, of_one in results if of_one and abs(start.samples - of_one[0].samples) > batch]
    if odd:
        start, loss = odd[0]
        more = f", and {len(odd) - 1} more that differ" if len(odd) > 1 else ""
        found = f"samples_count {loss.samples} in line {loss.number}{more}"
        yield Violation(loss.key, found, f"{start.samples}, as in {start.key} before it")

    counts = [record.samples for record in starts]
    if end and is_whole(end.samples, 1):
        counts.append(end.samples)
    if counts != sorted(counts) or len(set(counts[: len(starts)])) < len(starts):
        yield Violation(constants.EVAL_START, "a samples_count that does not increase", "the training sequences so far")
    interval, first = schedule
    gaps = [(last, next_) for last, next_ in pairwise([first - interval, *counts]) if next_ - last > interval]
    if gaps:
        more = f", nor in {len(gaps) - 1} more places" if len(gaps) > 1 else ""
        found = f"none between {gaps[0][0]:,} and {gaps[0][1]:,} training sequences{more}"
        yield Violation(constants.EVAL_START, found, f"an evaluation every {interval:,}", may_depart=True)


def ending(log: Log) -> Iterator[Violation]:
    """Yield what is wrong with a run's end: it must stop at the first evaluation that reaches the target."""
    end, last_evaluation = log.last(constants.RUN_STOP), log.last(constants.EVAL_START)
    if end is None:
        found = "none: the run was killed or is still running"
        yield Violation(constants.RUN_STOP, found, "exactly one line", of_end=True)
    elif end.metadata.get(constants.STATUS) != constants.SUCCESS:
        reason = f" ({end.metadata['reason']})" if "reason" in end.metadata else ""
        found = f"status {end.metadata.get(constants.STATUS)}{reason}"
        yield Violation(constants.RUN_STOP, found, f"status {constants.SUCCESS}", of_end=True)
    elif last_evaluation and end.samples not in (None, last_evaluation.samples):
        found = f"samples_count {shown(end.samples)}"
        yield Violation(constants.RUN_STOP, found, f"{shown(last_evaluation.samples)}, as at the last evaluation")

    losses = [record for record in log.all(constants.EVAL_ACCURACY) if is_number(record.value)]
    for record in losses[:-1]:
        if record.value <= log.target:
            yield Violation(record.key, f"{record}, followed by more evaluations", f"the run to stop at {log.target:g}")
    if losses and losses[-1].value > log.target:
        found = f"{losses[-1].value} at the last evaluation"
        yield Violation(losses[-1].key, found, f"{log.target:g} or less", of_end=True)


def facts(log: Log) -> dict[str, str]:
    """Summarise the run: name -> text."""

    def stated(key: str) -> str:
        return "?" if log.value(key) is None else shown(log.value(key)).strip('"')

    found = {
        "benchmark": f"{stated(constants.SUBMISSION_BENCHMARK)}, {stated(constants.SUBMISSION_DIVISION)} division",
        "system": f"{stated(constants.SUBMISSION_PLATFORM)}, {stated(constants.SUBMISSION_ORG)}",
        "run": f"global batch size {stated(constants.GLOBAL_BATCH_SIZE)}, seed {stated(constants.SEED)}",
    }
    end, batch = log.last(constants.RUN_STOP), log.whole(constants.GLOBAL_BATCH_SIZE)
    if end and batch and is_whole(end.samples, 0):
        found["length"] = f"{end.samples // batch:,} steps, {end.samples:,} training sequences"
    if (time := minutes(log)) is not None:
        found["time"] = f"{time:.2f} minutes"
    losses = [record.value for record in log.all(constants.EVAL_ACCURACY)]
    if losses and is_number(losses[-1]):
        found["loss"] = f"{losses[-1]:.4f} at the last evaluation, target {log.target:g}"
    return found
