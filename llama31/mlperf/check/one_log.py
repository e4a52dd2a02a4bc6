"""Check one MLPerf log.

MLCommons' compliance checker (`llama31.mlperf.check.official`) decides; `llama31.mlperf.check.own_rules` adds what it
does not check. `llama31.mlperf.check.submission` implements the verb `check`, for one log or several.

A log of the open division is checked by the closed division's rules too, because the benchmark has no open rules. It
passes if it breaks only the rules that it departs from, so a demonstration or a small experiment can pass without being
a submission.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.mlperf.check import notes, official, own_rules, rcp_misreadings, spelling, validation_data
from llama31.mlperf.check.validation_data import Evaluated
from llama31.mlperf.log.reader import read
from llama31.mlperf.log.records import TARGET_ACCURACY, Damages, Log, Record, Violation

# Setting of each value that may depart from the closed division. A log that declares departures names the settings
# (see `MLPerfLog.describe`) and may not depart in anything else.
SETTINGS_OF_DEPARTURES = {
    constants.MAX_SEQUENCE_LENGTH: "SEQ_LENGTH",
    constants.EVAL_SAMPLES: "EVAL_SAMPLES",
    constants.MAX_STEPS: "MAX_STEPS",
    constants.OPT_LR_DECAY_STEPS: "MAX_STEPS",
    constants.OPT_END_LR: "MIN_LR",
    constants.EVAL_ACCURACY: "TARGET",
    TARGET_ACCURACY: "TARGET",
    constants.INIT_CHECKPOINT_STEP: "FROM_HF",
}


@dataclass(frozen=True)
class Report:
    """Result of checking a log."""

    ruleset: str
    file: Path
    log: Log
    second_run: Record | None
    """Record at which a second run begins in the file."""
    damaged: Damages
    evaluated: Evaluated | None
    """Validation data of its evaluations; None without metrics beside the log."""
    facts: dict[str, str]
    """Summary of the run: name -> text."""
    is_closed: bool
    is_accepted: bool | None
    """Whether the official checker accepts the log in the closed division; None if it may read damaged lines."""
    checks: dict[str, list[Violation]]
    """Check -> violations, without departures."""
    departures: list[str]
    """Departures from the closed division's rules."""
    notes: list[str]
    """What is unusual and breaks no rule."""

    @property
    def failures(self) -> list[Violation]:
        """All violations, once each: the official checker repeats some of the project's own."""
        found: dict[tuple[str, str], Violation] = {}
        for findings in self.checks.values():
            for finding in findings:
                found.setdefault((finding.key, finding.wants), finding)
        return list(found.values())

    @property
    def passes(self) -> bool:
        """Whether the log breaks no rules but those that it departs from."""
        return not self.failures


def check(path: Path, ruleset: str) -> Report:
    """Check the log at `path`, a file or a run directory. Raises UserError if there is no log, or no such ruleset."""
    if ruleset not in rules.RULESETS:
        raise UserError(f"--ruleset {ruleset}: has no {rules.BENCHMARK}; use {', '.join(rules.RULESETS)}")
    file = path / paths.MLPERF_LOG if path.is_dir() else path
    try:
        log, damaged = read(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; give a run directory or an MLPerf log") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    if not log.records and not damaged.count:
        raise UserError(f"{file}: has no :::MLLOG line; give a run directory or an MLPerf log")

    data = validation_data.read(file, log)
    found, warnings = official.judge(log.records, ruleset)
    unreadable = Violation(":::MLLOG lines", str(damaged), "JSON with time_ms, key, value and metadata")
    checks = {"every :::MLLOG line can be read": [unreadable] if damaged.count else []}
    if second := own_rules.second_run(log):  # the other violations would follow from it
        begins = f"the second run begins in line {second.number}"
        checks["the file contains one run"] = [Violation(second.key, begins, "one run in a file")]
        warnings = []
        described = Log([record for record in log.records if record.number < second.number])
    else:
        described = log
        aside = "" if log.is_closed else ", departures aside"
        checks |= _rules(log)
        checks |= data.checks if data else {}
        checks[f"the closed division's rules, by the official checker of ruleset {ruleset}{aside}"] = found
    checks = {title: spelling.hinted(findings, log) for title, findings in checks.items()}
    departed = [finding for findings in checks.values() for finding in findings if _departs(finding, log)]
    checks = {title: [f for f in findings if f not in departed] for title, findings in checks.items()}
    kept = [finding for finding in found if not _departs(finding, log)]
    departures = [str(finding) for finding in departed] if log.declared is None else log.declared
    return Report(
        ruleset=ruleset,
        file=file,
        log=log,
        second_run=second,
        damaged=damaged,
        evaluated=data,
        facts={"log": str(file), **own_rules.facts(described)},
        is_closed=log.is_closed,
        is_accepted=None if damaged.count else not found,
        checks=checks,
        departures=[] if log.is_closed else departures,
        notes=[
            *(notes.notes(log) if not second else ()),
            *(data.notes if data else ()),
            *map(str, warnings),
            *(_older(log, ruleset) if kept and all(finding.is_missing for finding in kept) else ()),
        ],
    )


def _rules(log: Log) -> dict[str, list[Violation]]:
    """Apply the project's own rules: check -> violations."""
    found = {
        "values are possible and consistent": [*own_rules.values(log), *own_rules.relations(log)],
        "the run's events are in order": list(own_rules.order(log)),
    }
    if (evaluations := list(own_rules.evaluations(log))) or log.all(constants.EVAL_START):
        found["no evaluation was skipped, and sample counts are exact"] = evaluations
    found["the run ended at the first loss that reached its target"] = list(own_rules.ending(log))
    if log.is_closed:  # rcp_checker is for the closed division
        found["no other line has words that rcp_checker searches for"] = list(rcp_misreadings.findings(log))
    return found


def _older(log: Log, ruleset: str) -> Iterator[str]:
    """Name the earlier rulesets that accept a log in which the official checker only misses keys."""
    earlier = rules.RULESETS[: rules.RULESETS.index(ruleset)]
    if older := [one for one in earlier if all(_departs(f, log) for f in official.judge(log.records, one)[0])]:
        yield f"ruleset: accepted by --ruleset {' and '.join(older)}, which does not require the missing keys"


def _departs(finding: Violation, log: Log) -> bool:
    """Return whether a departure explains the violation: a declared one, or any if the log declares none."""
    if log.is_closed or log.declared is None or not finding.may_depart:
        return finding.may_depart and not log.is_closed
    setting = SETTINGS_OF_DEPARTURES.get(finding.key)
    return setting is not None and any(re.match(rf"{setting}\b", departure) for departure in log.declared)


def lines(report: Report, more: Sequence[str] = ()) -> Iterator[str]:
    """Yield the report, with `more` before the verdict, which is the last line."""
    yield from (f"{name + ':':<11}{text}" for name, text in report.facts.items())
    yield from (f"passes: {title}" for title, findings in report.checks.items() if not findings)
    yield from (f"departs from the closed division: {departure}" for departure in report.departures)
    yield from (f"note: {note}" for note in report.notes)
    yield from (f"fails: {finding}" for finding in report.failures)
    yield from more
    yield f"verdict: {_verdict(report)}"


def damage(number: int) -> str:
    """Return the end of a verdict: how many lines it ignores."""
    were = f"{number} line{'s were' if number > 1 else ' was'}"
    return f"; {were} unreadable and ignored" if number else ""


def _verdict(report: Report) -> str:
    if not report.passes:
        number = len(report.failures)
        verdict = f"fails for {number} reason{'s' if number > 1 else ''}"
        if report.is_closed and report.is_accepted is not None:
            verdict += f"; the official checker {'accepts' if report.is_accepted else 'does not accept'} the log"
        return verdict + damage(report.damaged.count)
    if report.is_closed:
        return f"passes; the official checker accepts the log in the closed division, ruleset {report.ruleset}"
    return "passes outside the closed division, with no departures but those above"
