"""Compare the logs of one submission: all settings must be the same, and all seeds different.

Each function takes logs by name, and yields violations that use these names.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mlperf_logging.mllog import constants

from llama31.mlperf.check import official, spelling
from llama31.mlperf.check.validation_data import KEY, Evaluated
from llama31.mlperf.log.records import Log, Record, Violation, is_event, listed, shown

COUNTS = {constants.SAMPLES_COUNT, constants.EPOCH_NUM, constants.EPOCH_COUNT, constants.STEP_NUM, "samples", "step"}
"""Metadata keys that date a record within a run."""
ROOM = 100  # characters for names of logs


def seeds(logs: Mapping[str, Log]) -> Iterator[Violation]:
    """Yield seeds that occur twice; a log without a seed fails its own check."""
    rejected = [file for file, log in logs.items() if log.all(constants.SEED) and not official.accepts_seeds([log])]
    if rejected:
        found = f"a line that MLCommons' seed checker rejects in {named(rejected, len(logs))}"
        yield Violation(constants.SEED, found, "one seed, with file and lineno in its metadata")
    for value, files in _by_value({file: log.value(constants.SEED) for file, log in logs.items()}).items():
        if len(files) > 1 and value != "null":
            found = f"{value} in {listed(files, room=ROOM, noun='log')}"
            yield Violation(constants.SEED, found, "a different seed in each log")


Stated = dict[str, dict[str, str]]
"""Key -> file -> value, as JSON."""


def settings(logs: Mapping[str, Log]) -> Stated:
    """Collect the settings that the logs state, from all records except seeds, events and results."""
    found: Stated = {}
    for file, log in logs.items():
        for key in log.keys:
            stated = {shown(one.value) for one in log.all(key) if not _is_result(one, log)}
            if stated and key != constants.SEED and not is_event(key):
                found.setdefault(key, {})[file] = " and ".join(sorted(stated))
    return found


def _is_result(record: Record, log: Log) -> bool:
    """Return whether a record is a result of the run, not a setting.

    Results are records of unknown keys with a sample or step count, and records after the end of the run, such as
    run_duration, and train_samples in AMD's logs, the number of samples that the run needed.
    """
    end = log.last(constants.RUN_STOP)
    is_after = end is not None and record.number > end.number
    if record.key in spelling.KNOWN:
        return is_after and record.key == constants.TRAIN_SAMPLES
    return is_after or not COUNTS.isdisjoint(record.metadata)


def differences(stated: Stated, logs: Collection[str], excepted: Mapping[str, Collection[str]]) -> Iterator[Violation]:
    """Yield the settings that are not the same in all logs. `excepted`: log -> keys that are not compared there."""
    for key, by_file in stated.items():
        values: dict[str, list[str]] = {}
        for file in logs:
            if key not in excepted.get(file, ()):
                values.setdefault(by_file.get(file, "no line"), []).append(file)
        if len(values) > 1:
            yield Violation(key, _each(values, len(logs)), "the same in all logs")


def cadence(logs: Mapping[str, Log]) -> Iterator[Violation]:
    """Yield runs that evaluated at other sample counts than most runs, each up to its end."""
    counts = {file: [record.samples for record in log.all(constants.EVAL_START)] for file, log in logs.items()}
    if not counts:
        return

    def followers(file: str) -> tuple[int, int]:
        own = counts[file]
        return sum(other == own[: len(other)] for other in counts.values()), len(own)

    usual = max(counts, key=followers)
    odd: dict[str, list[str]] = {}
    for file, samples in counts.items():
        for own, other in zip(samples, counts[usual], strict=False):
            if own != other:
                odd.setdefault(f"one after {shown(own)} samples, where {usual} has {shown(other)},", []).append(file)
                break
    if odd:
        yield Violation(constants.EVAL_START, _each(odd, len(logs)), "the same in all logs")


def validation_data(runs: Mapping[str, Evaluated]) -> Iterator[Violation]:
    """Yield evaluated tokens that differ between runs; runs with several or unknown ones fail by themselves."""
    different = _by_value({file: run.hashes[0] for file, run in runs.items() if len(set(run.hashes)) == 1})
    if len(different) > 1:
        yield Violation(KEY, _each(different, len(runs)), "one, the same in all runs")


def single_log_lines(findings: Mapping[str, Iterable[Violation]]) -> Iterator[str]:
    """Yield the violations of single logs as lines; violations of one rule share a line."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file, of_log in findings.items():
        for finding in of_log:
            found.setdefault((finding.key, finding.wants), {}).setdefault(finding.found_with_hint, []).append(file)
    for (key, wants), by_value in found.items():
        if len(by_value) > 1:
            yield str(Violation(key, _each(by_value, len(findings)), wants))
        else:
            ((value, files),) = by_value.items()
            yield f"{named(files, len(findings))}: {Violation(key, value, wants)}"


def _by_value(by_file: Mapping[str, object]) -> dict[str, list[str]]:
    """Group files by value, as JSON."""
    found: dict[str, list[str]] = {}
    for file, value in by_file.items():
        found.setdefault(shown(value), []).append(file)
    return found


def _each(by_value: Mapping[str, Sequence[str]], number: int) -> str:
    """List each value with the logs that have it, out of `number`, as many as fit into a line."""
    return listed([f"{value} in {named(files, number)}" for value, files in by_value.items()], "; ", noun="value")


def named(files: Sequence[str], number: int) -> str:
    """Name the files, as many as fit into a line; if they are most of `number` files, count them instead."""
    if len(files) <= number / 2 or number == 1:
        return listed(files, noun="log", room=ROOM)
    return f"{'all ' if len(files) == number else ''}{len(files)} logs"
