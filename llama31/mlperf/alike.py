"""What the logs of one submission must have alike, and the seed that they must not; each function gives findings.

Logs go by names that findings use.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile

from mlperf_logging.mllog import constants

from llama31.mlperf import evaluated
from llama31.mlperf.evaluated import Evaluated
from llama31.mlperf.records import Finding, Log, shown


def seeds(logs: Mapping[str, Log]) -> Iterator[Finding]:
    """Seeds that two logs share; a log without one fails by itself."""
    for value, files in _by_value({file: log.value(constants.SEED) for file, log in logs.items()}).items():
        if len(files) > 1 and value != "null":
            yield Finding(constants.SEED, f"{value} in {', '.join(files)}", "another seed in each log")


def settings(logs: Mapping[str, Log]) -> Iterator[Finding]:
    """What logs say before their runs start, the seed aside, and do not all say alike."""
    events = (constants.RUN_START, constants.BLOCK_START, constants.EVAL_START)
    said: dict[str, dict[str, object]] = {}
    for file, log in logs.items():
        for record in takewhile(lambda record: record.key not in events, log.records):
            if record.key != constants.SEED:
                said.setdefault(record.key, {})[file] = record.value
    for key, of_file in said.items():
        values = _by_value({file: of_file.get(file) for file in logs})
        if len(values) > 1:
            yield Finding(key, _each(values, len(logs)), "the same in all logs")


def cadence(logs: Mapping[str, Log]) -> Iterator[Finding]:
    """Evaluations that some runs have and a longer one has not."""
    counts = {file: [record.samples for record in log.all(constants.EVAL_START)] for file, log in logs.items()}
    longest = max(counts, key=lambda file: len(counts[file]))
    odd: dict[str, list[str]] = {}
    for file, samples in counts.items():
        for own, other in zip(samples, counts[longest], strict=False):
            if own != other:
                odd.setdefault(f"one after {shown(own)} samples, where {longest} has {shown(other)},", []).append(file)
                break
    if odd:
        yield Finding(constants.EVAL_START, _each(odd, len(logs)), "the same in all logs")


def validation_data(runs: Mapping[str, Evaluated]) -> Iterator[Finding]:
    """Evaluated tokens that differ from run to run; a run with several, or none that is known, is told of by itself."""
    different = _by_value({file: run.hashes[0] for file, run in runs.items() if len(set(run.hashes)) == 1})
    if len(different) > 1:
        yield Finding(evaluated.KEY, _each(different, len(runs)), "one, the same in all runs")


def gathered(findings: Mapping[str, Iterable[Finding]]) -> Iterator[str]:
    """What is wrong with logs by themselves: what a rule has against several is one line."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for file, of_log in findings.items():
        for finding in of_log:
            found.setdefault((finding.key, finding.wants), {}).setdefault(finding.found, []).append(file)
    for (key, wants), by_value in found.items():
        if len(by_value) > 1:
            yield str(Finding(key, _each(by_value, len(findings)), wants))
        else:
            ((value, files),) = by_value.items()
            yield f"{named(files, len(findings))}: {Finding(key, value, wants)}"


def _by_value(of_file: Mapping[str, object]) -> dict[str, list[str]]:
    """Value, as shown -> the files that have it."""
    found: dict[str, list[str]] = {}
    for file, value in of_file.items():
        found.setdefault(shown(value), []).append(file)
    return found


def _each(by_value: Mapping[str, Sequence[str]], number: int) -> str:
    """Each value with the logs that have it, of so many."""
    return "; ".join(f"{value} in {named(files, number)}" for value, files in by_value.items())


def named(files: Sequence[str], number: int) -> str:
    """The files by name, or by their number where they are most of so many."""
    if len(files) <= number / 2 or number == 1:
        return ", ".join(files)
    return f"{'all ' if len(files) == number else ''}{len(files)} logs"
