"""`python3 -m llama31 check`: the verdict on one log, or on several that are to be one submission.

Of several logs each must hold by itself (`llama31.mlperf.check.one_log`). Over them the seeds must differ and all else
be the same, and they must not converge faster than the reference (`llama31.mlperf.check.convergence`).
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.mlperf.check import compare_logs, official, one_log, score
from llama31.mlperf.check.one_log import Report
from llama31.mlperf.check.validation_data import Evaluated
from llama31.mlperf.log.records import Log, Violation, is_number, listed, shown

if TYPE_CHECKING:
    from llama31.mlperf.check import convergence


@dataclass(frozen=True)
class Several:
    """Reports on several logs, and what they say together."""

    ruleset: str
    reports: Sequence[Report]

    @cached_property
    def directory(self) -> Path:
        """The one that all logs are below."""
        return Path(os.path.commonpath([report.file.absolute().parent for report in self.reports]))

    def name(self, report: Report) -> str:
        """Path of a log, short enough to be said often."""
        return str(report.file.absolute().relative_to(self.directory))

    @property
    def is_complete(self) -> bool:
        """There are as many logs as a submission has."""
        return len(self.reports) == rules.RUNS_PER_SUBMISSION

    @cached_property
    def unconverged(self) -> list[Report]:
        """Logs that are without fault up to an end before the target."""
        return [
            report
            for report in self.reports
            if not score.has_converged(report.log) and all(finding.of_end for finding in report.failures)
        ]

    @cached_property
    def excused(self) -> list[Report]:
        """The one log of ten that may be wrong: its run missed the target, or the official checker rejects it.

        MLCommons' package checker accepts one such log under olympic scoring, if all ten have a seed of their own.
        """
        rejected = [report for report in self.reports if report.is_closed and not report.is_accepted]
        bad = [report for report in self.reports if report in rejected or report in self.unconverged]
        if not self.is_complete or len(bad) != 1:
            return []
        log = bad[0].log
        is_read = (
            not bad[0].damaged.count and official.can_check(log.records) and log.whole(constants.GLOBAL_BATCH_SIZE)
        )
        has_seeds = is_read and official.accepts_seeds([report.log for report in self.reports])
        return bad if has_seeds or bad[0] in self.unconverged else []

    @cached_property
    def checks(self) -> dict[str, list[Violation]]:
        """What was compared over all logs -> what is wrong there, of what the logs say; one log has nothing to be
        compared with."""
        logs = self.logs
        if len(logs) < 2:
            return {}
        # What an excused log lacks, or has otherwise, is its own fault.
        excepted = {self.name(report): {finding.key for finding in report.failures} for report in self.excused}
        off = [self.name(report) for report in self.excused if report not in self.unconverged]
        evaluated = {file: log for file, log in logs.items() if log.all(constants.EVAL_START) and file not in off}
        has_data = len(self.evaluated) == len(self.reports) and all(one.holds for one in self.evaluated.values())
        settings = f"the {len(self.stated)} settings that the logs state are the same"
        found = {
            "the seeds differ": (compare_logs.seeds(logs), all(log.all(constants.SEED) for log in logs.values())),
            settings: (compare_logs.different(self.stated, list(logs), excepted), bool(self.stated)),
            "evaluations are after the same numbers of samples": (compare_logs.cadence(evaluated), bool(evaluated)),
            "the validation data is the same": (compare_logs.validation_data(self.evaluated), has_data),
        }
        compared = {title: (list(findings), is_stated) for title, (findings, is_stated) in found.items()}
        return {title: findings for title, (findings, is_stated) in compared.items() if findings or is_stated}

    @property
    def logs(self) -> dict[str, Log]:
        """The logs that are compared, by name: those of one run."""
        return {self.name(report): report.log for report in self.reports if not report.second_run}

    @cached_property
    def stated(self) -> compare_logs.Stated:
        """Settings that the logs state, the seed aside."""
        return compare_logs.settings(self.logs)

    @cached_property
    def evaluated(self) -> dict[str, Evaluated]:
        """Validation data by log, of those that have metrics beside them."""
        return {self.name(report): report.evaluated for report in self.reports if report.evaluated}

    @cached_property
    def points(self) -> "convergence.Points":
        """The reference convergence points."""
        from llama31.mlperf.check import convergence  # half a second, by scipy: a mistake is told before

        return convergence.Points(self.ruleset)

    @cached_property
    def convergence(self) -> "convergence.Verdict | None":
        """Verdict by the reference points; None where the logs are not of one batch size, or not all closed."""
        batches = {report.log.whole(constants.GLOBAL_BATCH_SIZE) for report in self.reports}
        batch = batches.pop()
        if batches or batch is None or not all(report.is_closed for report in self.reports):
            return None
        if self.is_complete and not self.damaged:
            from llama31.mlperf.check import convergence

            return convergence.official([report.log for report in self.reports], self.points)
        converged: list[int] = []
        others: list[int] = []
        for report in self.reports:
            if (samples := score.samples(report.log)) is not None:
                (converged if score.has_converged(report.log) else others).append(samples)
        return self.points.early(batch, converged, others)

    @property
    def damaged(self) -> int:
        """Lines of all logs that could not be read."""
        return sum(report.damaged.count for report in self.reports)

    @property
    def is_accepted(self) -> bool | None:
        """MLCommons' checkers accept ten logs as a submission; None where that is not known, or they are not ten."""
        if not self.is_complete or self.damaged or not all(report.is_closed for report in self.reports):
            return None
        logs = [report.log for report in self.reports]
        converges = self.convergence is not None and self.convergence.holds
        is_checked = all(official.can_check(log.records) for log in logs)
        return self.number_accepted >= len(logs) - 1 and is_checked and converges and official.accepts_seeds(logs)

    @property
    def number_accepted(self) -> int:
        """Logs that the official checker accepts."""
        return sum(bool(report.is_accepted) for report in self.reports)

    @cached_property
    def failures(self) -> list[str]:
        """All that is wrong, a line each. One run says too little of a mean for its convergence to count."""
        found = list(
            compare_logs.gathered({self.name(one): () if one in self.excused else one.failures for one in self.reports})
        )
        found += [str(finding) for findings in self.checks.values() for finding in findings]
        if len(self.reports) > 1 and self.convergence and not self.convergence.holds:
            found.append(f"convergence: {self.convergence.words}")
        if not found and self.is_accepted is False:
            found.append("MLCommons' checkers do not accept these logs as a submission")
        return found

    @property
    def holds(self) -> bool:
        """Each log holds, and they hold together."""
        return not self.failures

    @property
    def minutes(self) -> float | None:
        """Score of a submission, before the checker's scaling: mean time to train without fastest and slowest."""
        if not self.is_complete:
            return None
        times = [score.minutes(report.log) if score.has_succeeded(report.log) else math.inf for report in self.reports]
        known = [time for time in times if time is not None]
        mean = score.olympic_mean(known) if len(known) == len(times) else math.inf
        return mean if math.isfinite(mean) else None


def check(runs: Sequence[Path], ruleset: str) -> int:
    """Checks logs, given as files or run directories, and prints the report; 0 if they hold, else 1."""
    found = judge(runs, ruleset)
    print("\n".join(lines(found)))
    return 0 if found.holds else 1


def judge(runs: Sequence[Path], ruleset: str) -> Several:
    """Judges logs, given as files or run directories. Raises UserError where one is none, or is given twice."""
    resolved = [run.resolve() for run in runs]
    if twice := [str(run) for run in dict.fromkeys(resolved) if resolved.count(run) > 1]:
        raise UserError(f"{', '.join(twice)}: given more than once")
    return Several(ruleset, [one_log.check(run, ruleset) for run in runs])


def lines(found: Several) -> Iterator[str]:
    """The report in plain words; the last line is the verdict."""
    if len(found.reports) == 1:
        yield from one_log.lines(found.reports[0], list(_convergence(found)))
        return
    yield f"ruleset {found.ruleset}, {len(found.reports)} logs below {found.directory}"
    yield f"{'':<9}{'seed':>11}{'samples':>10}{'minutes':>9}{'loss':>8}  log"
    yield from (f"{_row(report)}  {found.name(report)}" for report in found.reports)
    yield from _common("departs from the closed division", found, lambda report: report.departures)
    yield from _common("note", found, lambda report: report.notes)
    if len(found.evaluated) < len(found.reports):
        without = f"{len(found.reports) - len(found.evaluated)} of {len(found.reports)} logs"
        yield f"note: token_hash: {without} without {paths.METRICS} beside them; what those runs evaluated is unknown"
    if unstated := [key for key in official.settings() if key not in found.stated and key != constants.SEED]:
        yield f"note: no log states, so not compared: {listed(unstated, room=1000)}"
    yield from (f"holds: {title}" for title, findings in found.checks.items() if not findings)
    yield from (f"note: {note}" for note in excuses(found))
    yield from closing(found)
    yield from (f"fails: {line}" for line in found.failures)
    yield f"verdict: {_verdict(found)}"


def excuses(found: Several) -> Iterator[str]:
    """Say what is wrong with the one log of ten that may be, and why it may."""
    for report in found.excused:
        if report in found.unconverged:
            is_ended = report.log.first(constants.RUN_STOP)
            how = "missed the target" if is_ended else f"was killed: no {constants.RUN_STOP}"
            why = f"{how}; one run of a submission may, and counts as the slowest"
        else:
            why = "does not hold; MLCommons' package checker accepts one such log of ten, under olympic scoring"
        yield from (f"{found.name(report)}: {what}" for what in (why, *report.failures))


def _row(report: Report) -> str:
    log = report.log
    minutes, loss = score.minutes(log), log.last(constants.EVAL_ACCURACY)
    samples = score.samples(log)
    cells = (
        f"{shown(log.value(constants.SEED)):>11}",
        f"{'?' if samples is None else format(samples, ','):>10}",
        f"{'?' if minutes is None else format(minutes, '.2f'):>9}",
        f"{format(loss.value, '.4f') if loss and is_number(loss.value) else '?':>8}",
    )
    return f"{'holds' if report.holds else 'fails':<9}{''.join(cells)}"


def _common(title: str, found: Several, said: Callable[[Report], Sequence[str]]) -> Iterator[str]:
    """What logs say alike, once, with those that do where not all."""
    number = len(found.reports)
    of_line: dict[str, list[str]] = {}
    for report in found.reports:
        for line in said(report):
            of_line.setdefault(line, []).append(found.name(report))
    for line, files in of_line.items():
        yield f"{title}: {'' if len(files) == number else f'{compare_logs.named(files, number)}: '}{line}"


def closing(found: Several) -> Iterator[str]:
    """Convergence and score."""
    yield from _convergence(found)
    yield from _score(found)


def _convergence(found: Several) -> Iterator[str]:
    if found.convergence is None:
        yield "rcp: not judged; reference points are for closed logs of one global batch size"
        return
    batch = found.reports[0].log.whole(constants.GLOBAL_BATCH_SIZE)
    if batch and (reference := found.points.reference(batch)):
        yield f"rcp: the reference: {reference}"
    yield f"rcp: {found.convergence.words}{one_log.damage(found.damaged)}"


def _score(found: Several) -> Iterator[str]:
    if found.minutes is None or found.convergence is None:
        return
    line = f"score: {found.minutes:.3f} minutes, mean without the fastest and the slowest"
    scaling = found.convergence.scaling
    yield f"{line}; {found.minutes * scaling:.3f} with the reference's scaling" if scaling and scaling != 1 else line


def _verdict(found: Several) -> str:
    number, wanted = len(found.reports), rules.RUNS_PER_SUBMISSION
    if not found.holds:
        reasons = len(found.failures)
        verdict = f"do not hold together, for {reasons} reason{'s' if reasons > 1 else ''}"
        if found.is_accepted is not None:
            accept = "accept" if found.is_accepted else "do not accept"
            verdict += f"; MLCommons' checkers {accept} them as a submission"
        elif not found.damaged and all(report.is_closed for report in found.reports):
            verdict += f"; the official checker accepts {found.number_accepted} of the {number} logs"
        return verdict + one_log.damage(found.damaged)
    if not all(report.is_closed for report in found.reports):
        return "hold together outside the closed division"
    if not found.is_complete:
        return f"hold together so far; a submission has {wanted} runs, these are {number}"
    return f"hold together as the {wanted} runs of a submission in the closed division, ruleset {found.ruleset}"
