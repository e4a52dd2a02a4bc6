"""What the logs of one submission must have alike, and the seed that they must not; each function gives findings.

Logs go by names that findings use.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from mlperf_logging.mllog import constants

from llama31 import paths
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
    """Evaluations that one run has and a longer one has not."""
    counts = {file: [record.samples for record in log.all(constants.EVAL_START)] for file, log in logs.items()}
    longest = max(counts, key=lambda file: len(counts[file]))
    for file, samples in counts.items():
        if samples != counts[longest][: len(samples)]:
            odd = next(pair for pair in zip(samples, counts[longest], strict=False) if pair[0] != pair[1])
            found = f"one after {shown(odd[0])} samples in {file}, after {shown(odd[1])} in {longest}"
            yield Finding(constants.EVAL_START, found, "the same in all logs")


def validation_data(hashes: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Evaluated tokens that differ within a run or from run to run."""
    different = _by_value({file: sorted(of_run) for file, of_run in hashes.items()})
    if len(different) > 1 or any(len(of_run) > 1 for of_run in hashes.values()):
        yield Finding("token_hash", _each(different, len(hashes)), "one, the same in all runs")


def token_hashes(log: Path) -> set[str]:
    """Fingerprints beside a log, in the metrics of its run directory; the MLPerf log itself holds none."""
    metrics = log.with_name(paths.METRICS)
    if log.name != paths.MLPERF_LOG or not metrics.is_file():
        return set()
    found = set()
    with metrics.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if '"token_hash"' in line:
                try:
                    found.add(str(json.loads(line)["token_hash"]))
                except (ValueError, LookupError, TypeError):
                    found.add("unreadable")
    return found


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
