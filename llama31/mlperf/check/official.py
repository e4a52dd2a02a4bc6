"""Run MLCommons' compliance checker on one log, and reword its messages.

For each ruleset the checker reads YAML files of Python expressions and evaluates them on the lines of a log
(mlperf-logging, compliance_checker/mlp_compliance.py). Its messages quote those expressions; a `Violation` is in plain
text.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from mlperf_logging.compliance_checker import mlp_compliance
from mlperf_logging.compliance_checker.mlp_parser.ruleset_610 import LogLine
from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.mlperf.log.records import ABOVE_ZERO, NONE, Log, Record, Violation, count, is_event, shown

RULE_FILES = Path(mlp_compliance.__file__).parent


def judge(records: Sequence[Record], ruleset: str) -> tuple[list[Violation], list[Violation]]:
    """Return the checker's errors, and its warnings, on a log of this benchmark in the closed division.

    The checker always sees that division and benchmark: it opens and executes the rule files that the log's own values
    name, and the benchmark's open ruleset is only a placeholder that requires a loss below 1.0.
    """
    checker = mlp_compliance.make_checker("training", ruleset, quiet=False, werror=False)
    lines = [_as_checked(record) for record in records if _can_be_checked(record)]
    pending = [f"training_{ruleset}/common.yaml"]
    mlp_compliance.enqueued_configs.clear()
    with _rule_files_parsed_once():
        while pending:  # as ComplianceChecker.check_loglines does, which also sets up the root logger
            checker.configured_checks(lines, str(RULE_FILES / pending.pop(0)))
            pending += mlp_compliance.enqueued_configs
            mlp_compliance.enqueued_configs.clear()
    unchecked = [record for record in records if not _can_be_checked(record)]
    messages = [*checker.overwritable.items(), *((None, message) for message in checker.not_overwritable)]
    if unchecked:  # the checker was not shown all of these, so its count of them is wrong
        messages = [one for one in messages if one[0] != constants.EVAL_ACCURACY or not _COUNT.match(one[1])]
    findings = [*_names(records), *(_translate(key, message, records) for key, message in messages)]
    # The checker itself ends with TypeError at these, so it does not accept the log.
    findings += [Violation(record.key, str(record), ABOVE_ZERO) for record in unchecked]
    warnings = [_translate(key, message, records) for key, message in checker.warnings.items()]
    return findings, [warning for warning in warnings if warning not in findings]


def settings() -> list[str]:
    """Return the keys of the newest ruleset that describe a run, without those of events."""
    directory = RULE_FILES / f"training_{rules.RULESETS[-1]}"
    names = ("common.yaml", "closed_common.yaml", f"closed_{rules.BENCHMARK}.yaml")
    entries = [entry["KEY"]["NAME"] for name in names for entry in _parsed(str(directory / name)) if "KEY" in entry]
    return [key for key in dict.fromkeys(entries) if not is_event(key)]


def accepts_seeds(logs: Sequence[Log]) -> bool:
    """Return whether the package checker's SeedChecker accepts the logs of a submission.

    Each log must have a seed, and no two records may agree in seed, source file and line.
    """
    records = [record for log in logs for record in log.all(constants.SEED)]
    try:
        found = {(one.metadata["file"], one.metadata["lineno"], int(one.value)) for one in records}
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    return len(found) == len(records) and all(log.all(constants.SEED) for log in logs)


@contextmanager
def _rule_files_parsed_once() -> Iterator[None]:
    """Have the checker take its rule files from a cache: it parses four for each log, most of its time."""
    stock = mlp_compliance.yaml
    mlp_compliance.yaml = SimpleNamespace(load=lambda file, **_: _parsed(file.name), BaseLoader=yaml.BaseLoader)
    try:
        yield
    finally:
        mlp_compliance.yaml = stock


@cache
def _parsed(file: str) -> Any:
    return yaml.load(Path(file).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - makes only strings


def _names(records: Sequence[Record]) -> Iterator[Violation]:
    """Yield what is wrong with the log's own division and benchmark, which the checker does not see."""
    for key, choices in {
        constants.SUBMISSION_DIVISION: [constants.CLOSED, constants.OPEN],
        constants.SUBMISSION_BENCHMARK: [rules.BENCHMARK],
    }.items():
        of_key = [record for record in records if record.key == key]
        yield from (Violation(key, str(r), " or ".join(choices)) for r in of_key if r.value not in choices)
        if len({shown(record.value) for record in of_key}) > 1:
            yield Violation(key, count(of_key), "exactly one line")


def can_check(records: Sequence[Record]) -> bool:
    """Return whether the checker can process the records; a loss that is no number makes it raise TypeError."""
    return all(map(_can_be_checked, records))


def _can_be_checked(record: Record) -> bool:
    """Return whether the checker can process a record: it compares eval_accuracy with the target unguarded."""
    return record.key != constants.EVAL_ACCURACY or isinstance(record.value, int | float)


def _as_checked(record: Record) -> LogLine:
    fixed = {constants.SUBMISSION_DIVISION: constants.CLOSED, constants.SUBMISSION_BENCHMARK: rules.BENCHMARK}
    # Messages quote the whole line; here its number stands for it, from which the record is found again.
    content = {"value": fixed.get(record.key, record.value), "metadata": record.metadata}
    return LogLine(str(record.number), record.time_ms, record.key, content, record.number)


# What the common tests of the rule files want, in plain words, and whether a run outside the closed division may
# differ. The first pattern that matches a whole test counts; other tests are quoted.
_VALUE = re.escape("v['value']")
_TESTS = [
    (re.compile(pattern), words, may_depart)
    for pattern, words, may_depart in (
        (rf"{_VALUE} == {rules.MAX_STEPS:_} - .*", f"{rules.MAX_STEPS:,} less the warmup steps", True),
        (rf"{_VALUE} == (.+)", r"\1", True),
        (rf"\({_VALUE} <= (\S+)\) and {_VALUE} > 0.0", r"\1 or less", True),
        (rf"{_VALUE} in \[(.+)\]", r"one of \1", False),
        (rf"{_VALUE} != ''", "a value", False),
        (rf"{_VALUE} > 0", "a number above 0", False),
        (rf"is_integer\({_VALUE}\)(?: and {_VALUE} >= 1)?", "a whole number above 0", False),
        (r"s\['(init|run)_started'\]", r"to be after \1_start", False),
        (r"ll\.timestamp - .*", "to be within 30 minutes of init_start", False),
    )
]
_FAILED = re.compile(r"CHECK for '.*' failed in line (?P<line>\d+):\n.*\nfailed test: (?P<test>.*)\n")
_BROKE = re.compile(r"Failed executing CHECK code:\n(?P<test>.*)\ntriggered by line:\n(?P<line>\d+)\n")
_NEVER = re.compile(r"Failed checks for (?P<key>\w+) : (?P<test>.*)")
_COUNT = re.compile(r"Required (\w+) occurrence of '\w+' but found")
_NONE = re.compile(r"Required AT_LEAST_ONE occurrence of ('.*)")
_COUNTS = {"EXACTLY_ONE": "exactly one line", "AT_LEAST_ONE": "at least one line"}


def _translate(key: str | None, message: str, records: Sequence[Record]) -> Violation:
    """Turn a message of the checker, filed under a key or none, into a violation."""
    of_key = [record for record in records if record.key == key]
    if (match := _FAILED.match(message)) or (match := _BROKE.match(message)):
        record = next(record for record in records if record.number == int(match["line"]))
        return Violation(record.key, str(record), *as_text(match["test"]))
    if match := _NEVER.match(message):
        best = min(record.value for record in records if record.key == match["key"] and _can_be_checked(record))
        return Violation(match["key"], f"{shown(best)} at best", *as_text(match["test"]))
    if match := _COUNT.match(message):
        return Violation(str(key), count(of_key), _COUNTS[match[1]])
    if match := _NONE.match(message):
        keys = sorted(re.findall(r"'(\w+)'", match[1]))  # a set in the checker, so without an order of its own
        return Violation(" or ".join(keys), NONE, "at least one line")
    return Violation(key or "log", "what the official checker does not accept", message)


def as_text(test: str) -> tuple[str, bool]:
    """Return what a test of the rule files requires, and whether a run outside the closed division may differ there."""
    for pattern, words, may_depart in _TESTS:
        if match := pattern.fullmatch(test.strip()):
            return match.expand(words), may_depart
    return f"to pass `{test.strip()}`", False
