"""Whether an MLPerf log holds, and where it does not, why.

MLCommons' compliance checker judges (`llama31.mlperf.check.official`), and what it does not look at comes on top
(`llama31.mlperf.check.own_rules`). `llama31.mlperf.check.submission` is the verb `check`, over one log or several.

A log of the open division is judged by the closed division's rules too, for the benchmark has none for the open one,
and holds if it keeps all of them but those that it departs from. So a demonstration or a small experiment can be
right without being a submission.
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

# The setting behind each value that may depart from the closed division. A log that declares its departures names
# the settings (see `MLPerfLog.describe`), and may not depart in anything else.
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
    """What `check` found out about a log."""

    ruleset: str
    file: Path
    log: Log
    second_run: Record | None
    """The record with which a second run begins in the file."""
    damaged: Damages
    """The lines that could not be read; all that is said of the log stands on the others."""
    evaluated: Evaluated | None
    """Validation data of its evaluations; None where the log lies alone."""
    facts: dict[str, str]
    """What the log is of: name -> words."""
    is_closed: bool
    """The log is one of the closed division."""
    is_accepted: bool | None
    """The official checker accepts the log, taken as one of the closed division; None where lines are damaged, which
    it may take otherwise."""
    checks: dict[str, list[Violation]]
    """What was looked at -> what is wrong there, departures aside."""
    departures: list[str]
    """Where the run leaves the closed division's rules."""
    notes: list[str]
    """What is worth knowing and breaks no rule."""

    @property
    def failures(self) -> list[Violation]:
        """All that is wrong, each once: the official checker repeats some of what the project's rules say."""
        found: dict[tuple[str, str], Violation] = {}
        for findings in self.checks.values():
            for finding in findings:
                found.setdefault((finding.key, finding.wants), finding)
        return list(found.values())

    @property
    def holds(self) -> bool:
        """The log keeps all rules but those that it departs from."""
        return not self.failures


def check(path: Path, ruleset: str) -> Report:
    """Judges the log at `path`, a file or a run directory. Raises UserError where there is none to judge."""
    if ruleset not in rules.RULESETS:
        raise UserError(f"--ruleset {ruleset}: not one that has {rules.BENCHMARK}: {', '.join(rules.RULESETS)}")
    file = path / paths.MLPERF_LOG if path.is_dir() else path
    try:
        log, damaged = read(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; give a run directory or an MLPerf log") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    if not log.records and not damaged.count:
        raise UserError(f"{file}: has no :::MLLOG line; give a run directory or an MLPerf log")

    data = validation_data.beside(file, log)
    found, warnings = official.judge(log.records, ruleset)
    checks = {"every :::MLLOG line can be read": list(own_rules.damage(damaged))}
    if second := own_rules.second_run(log):  # all else follows from it
        begins = f"the second run begins in line {second.number}"
        checks["the file holds one run"] = [Violation(second.key, begins, "one run in a file")]
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
    """What the official checker does not look at -> what is wrong there."""
    evaluations = list(own_rules.evaluations(log))
    of_evaluations = {"no evaluation was skipped, and sample counts are exact": evaluations}
    searched = {"no other line has words by which rcp_checker finds its values": list(rcp_misreadings.findings(log))}
    return {
        "the values are possible and fit each other": [*own_rules.values(log), *own_rules.relations(log)],
        "the run's events are in order": list(own_rules.order(log)),
        **(of_evaluations if evaluations or log.all(constants.EVAL_START) else {}),
        "the run ended at the first loss that reached its target": list(own_rules.ending(log)),
        **(searched if log.is_closed else {}),  # rcp_checker is for the closed division
    }


def _older(log: Log, ruleset: str) -> Iterator[str]:
    """Of a log in which the official checker misses keys and nothing else: the rulesets before this one that do not ask
    for them."""
    older = [
        one
        for one in rules.RULESETS[: rules.RULESETS.index(ruleset)]
        if all(_departs(finding, log) for finding in official.judge(log.records, one)[0])
    ]
    if older:
        yield f"ruleset: accepted by --ruleset {' and '.join(older)}; the keys that are missing came later"


def _departs(finding: Violation, log: Log) -> bool:
    """Whether a departure explains the finding: any that is possible, or one that the log declares, if it does."""
    if log.is_closed or log.declared is None or not finding.may_depart:
        return finding.may_depart and not log.is_closed
    setting = SETTINGS_OF_DEPARTURES.get(finding.key)
    return setting is not None and any(re.match(rf"{setting}\b", departure) for departure in log.declared)


def lines(report: Report, more: Sequence[str] = ()) -> Iterator[str]:
    """The report in plain words, line by line, with `more` before the verdict, which is the last one."""
    yield from (f"{name + ':':<11}{words}" for name, words in report.facts.items())
    yield from (f"holds: {title}" for title, findings in report.checks.items() if not findings)
    yield from (f"departs from the closed division: {departure}" for departure in report.departures)
    yield from (f"note: {note}" for note in report.notes)
    yield from (f"fails: {finding}" for finding in report.failures)
    yield from more
    yield f"verdict: {_verdict(report)}"


def damage(number: int) -> str:
    """For the end of a verdict: how many lines it leaves out."""
    were = f"{number} line{'s were' if number > 1 else ' was'}"
    return f"; {were} not understood, and the rest of the verdict stands on the others" if number else ""


def _verdict(report: Report) -> str:
    if not report.holds:
        number = len(report.failures)
        verdict = f"does not hold, for {number} reason{'s' if number > 1 else ''}"
        if report.is_closed and report.is_accepted is not None:
            verdict += f"; the official checker {'accepts' if report.is_accepted else 'does not accept'} the log"
        return verdict + damage(report.damaged.count)
    if report.is_closed:
        return f"holds; the official checker accepts the log in the closed division, ruleset {report.ruleset}"
    return "holds outside the closed division, from which it departs as said and in nothing else"
