"""What the logs of one submission must have alike, and the seed that they must not; each function gives findings.

Logs go by names that findings use.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from mlperf_logging.mllog import constants

from llama31.mlperf.check import official, spelling
from llama31.mlperf.check.validation_data import KEY, Evaluated
from llama31.mlperf.log.records import Log, Record, Violation, is_event, listed, shown

PLACES = {constants.SAMPLES_COUNT, constants.EPOCH_NUM, constants.EPOCH_COUNT, constants.STEP_NUM, "samples", "step"}
"""Metadata that give a record a place in the run's course."""
ROOM = 100  # characters for names of logs


def seeds(logs: Mapping[str, Log]) -> Iterator[Violation]:
    """Seeds that two logs share, or one has twice; a log without one fails by itself."""
    rejected = [file for file, log in logs.items() if log.all(constants.SEED) and not official.accepts_seeds([log])]
    if rejected:
        found = f"what MLCommons' seed checker rejects in {named(rejected, len(logs))}"
        yield Violation(constants.SEED, found, "one seed, with file and lineno in its metadata")
    for value, files in _by_value({file: log.value(constants.SEED) for file, log in logs.items()}).items():
        if len(files) > 1 and value != "null":
            yield Violation(
                constants.SEED, f"{value} in {listed(files, room=ROOM, noun='log')}", "another seed in each log"
            )


Stated = dict[str, dict[str, str]]
"""Key -> file -> value, as shown."""


def settings(logs: Mapping[str, Log]) -> Stated:
    """Collect what the logs say of their runs, wherever it stands: all keys but the seed and those of events."""
    said: dict[str, dict[str, list[str]]] = {}
    for file, log in logs.items():
        for record in log.records:
            if record.key != constants.SEED and not is_event(record.key) and not _is_result(record, log):
                values = said.setdefault(record.key, {}).setdefault(file, [])
                values += [value for value in [shown(record.value)] if value not in values]
    return {
        key: {file: " and ".join(sorted(values)) for file, values in of_file.items()} for key, of_file in said.items()
    }


def _is_result(record: Record, log: Log) -> bool:
    """Whether a record gives what a run came to: one of an unknown key with a place in the run's course, or after its
    end, such as run_duration and the train_samples that the run took in AMD's logs."""
    end = log.last(constants.RUN_STOP)
    is_after = end is not None and record.number > end.number
    if record.key in spelling.KNOWN:
        return is_after and record.key == constants.TRAIN_SAMPLES
    return is_after or not PLACES.isdisjoint(record.metadata)


def different(stated: Stated, logs: Collection[str], excepted: Mapping[str, Collection[str]]) -> Iterator[Violation]:
    """Find the settings that the logs do not state alike.

    Args:
        stated: What `settings` gave.
        logs: Names of all logs.
        excepted: Log -> keys that are not compared there.
    """
    for key, of_file in stated.items():
        compared = [file for file in logs if key not in excepted.get(file, ())]
        values: dict[str, list[str]] = {}
        for file in compared:
            values.setdefault(of_file.get(file, "no line"), []).append(file)
        if len(values) > 1:
            yield Violation(key, _each(values, len(logs)), "the same in all logs")


def cadence(logs: Mapping[str, Log]) -> Iterator[Violation]:
    """Evaluations of some runs that are not where most runs have theirs, up to the end of each."""
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
    """Evaluated tokens that differ from run to run; a run with several, or none that is known, is told of by itself."""
    different = _by_value({file: run.hashes[0] for file, run in runs.items() if len(set(run.hashes)) == 1})
    if len(different) > 1:
        yield Violation(KEY, _each(different, len(runs)), "one, the same in all runs")


def gathered(findings: Mapping[str, Iterable[Violation]]) -> Iterator[str]:
    """What is wrong with logs by themselves: what a rule has against several is one line."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file, of_log in findings.items():
        for finding in of_log:
            found.setdefault((finding.key, finding.wants), {}).setdefault(finding.said, []).append(file)
    for (key, wants), by_value in found.items():
        if len(by_value) > 1:
            yield str(Violation(key, _each(by_value, len(findings)), wants))
        else:
            ((value, files),) = by_value.items()
            yield f"{named(files, len(findings))}: {Violation(key, value, wants)}"


def _by_value(of_file: Mapping[str, object]) -> dict[str, list[str]]:
    """Value, as shown -> the files that have it."""
    found: dict[str, list[str]] = {}
    for file, value in of_file.items():
        found.setdefault(shown(value), []).append(file)
    return found


def _each(by_value: Mapping[str, Sequence[str]], number: int) -> str:
    """Name each value with the logs that have it, of so many; the rest is counted where these are many."""
    values = [f"{value} in {named(files, number)}" for value, files in by_value.items()]
    return listed(values, "; ", noun="value")


def named(files: Sequence[str], number: int) -> str:
    """Name the files, some of them where they are many, or count them where they are most of so many."""
    if len(files) <= number / 2 or number == 1:
        return listed(files, noun="log", room=ROOM)
    return f"{'all ' if len(files) == number else ''}{len(files)} logs"
