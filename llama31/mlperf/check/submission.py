"""`python3 -m llama31 check`: check one log, or several logs as one submission.

Each log must pass on its own (`llama31.mlperf.check.one_log`). Across logs the seeds must differ and all other settings
agree, and the runs must not converge faster than the reference (`llama31.mlperf.check.convergence`).
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
from llama31.common.files import real_path
from llama31.common.printable import printable
from llama31.config import paths
from llama31.mlperf.check import compare_logs, official, one_log, score
from llama31.mlperf.check.one_log import Report
from llama31.mlperf.check.validation_data import Evaluated
from llama31.mlperf.log.records import Log, Violation, is_number, listed, shown

if TYPE_CHECKING:
    from llama31.mlperf.check import convergence


@dataclass(frozen=True)
class SubmissionCheck:
    """Reports on the logs of a submission, and checks across them."""

    ruleset: str
    reports: Sequence[Report]

    @cached_property
    def directory(self) -> Path:
        """Common parent directory of all logs."""
        return Path(os.path.commonpath([report.file.absolute().parent for report in self.reports]))

    def name(self, report: Report) -> str:
        """Return a log's path relative to `directory`."""
        return str(report.file.absolute().relative_to(self.directory))

    @property
    def is_complete(self) -> bool:
        """Whether there are as many logs as a submission has."""
        return len(self.reports) == rules.RUNS_PER_SUBMISSION

    @property
    def is_closed(self) -> bool:
        """Whether all logs are of the closed division."""
        return all(report.is_closed for report in self.reports)

    @cached_property
    def unconverged(self) -> list[Report]:
        """Logs without violations except that the run ended before its target."""
        return [
            report
            for report in self.reports
            if not score.has_converged(report.log) and all(finding.of_end for finding in report.failures)
        ]

    @cached_property
    def excused(self) -> list[Report]:
        """The one log of ten that may fail: its run missed the target, or the official checker rejects it.

        MLCommons' package checker accepts one such log under olympic scoring, if all ten have a seed of their own.
        """
        rejected = [report for report in self.reports if report.is_closed and not report.is_accepted]
        bad = [report for report in self.reports if report in rejected or report in self.unconverged]
        if not self.is_complete or len(bad) != 1:
            return []
        log = bad[0].log
        is_read = official.can_check(log.records) and log.whole(constants.GLOBAL_BATCH_SIZE)
        has_seeds = official.accepts_seeds([report.log for report in self.reports])
        is_legible = not bad[0].damaged.count and is_read and has_seeds
        return bad if is_legible or bad[0] in self.unconverged else []

    @cached_property
    def checks(self) -> dict[str, list[Violation]]:
        """Check across logs -> violations; checks of values that no log states are left out."""
        logs = self.logs
        if len(logs) < 2:
            return {}
        # The failures of an excused log must not count again as differences.
        excepted = {self.name(report): {finding.key for finding in report.failures} for report in self.excused}
        off = [self.name(report) for report in self.excused if report not in self.unconverged]
        evaluated = {file: log for file, log in logs.items() if log.all(constants.EVAL_START) and file not in off}
        is_known = all(one.is_known and not one.findings for one in self.evaluated.values())
        has_data = len(self.evaluated) == len(self.reports) and is_known
        settings = f"the {len(self.stated)} settings that the logs state are the same"
        compared = (
            ("the seeds differ", compare_logs.seeds(logs), all(log.all(constants.SEED) for log in logs.values())),
            (settings, compare_logs.differences(self.stated, list(logs), excepted), self.stated),
            ("evaluations are after the same numbers of samples", compare_logs.cadence(evaluated), evaluated),
            ("the validation data is the same", compare_logs.validation_data(self.evaluated), has_data),
        )
        return {title: found for title, findings, is_stated in compared if (found := list(findings)) or is_stated}

    @property
    def logs(self) -> dict[str, Log]:
        """Logs to compare, by name; files with two runs are left out."""
        return {self.name(report): report.log for report in self.reports if not report.second_run}

    @cached_property
    def stated(self) -> compare_logs.Stated:
        """Settings that the logs state, except the seed."""
        return compare_logs.settings(self.logs)

    @cached_property
    def evaluated(self) -> dict[str, Evaluated]:
        """Validation data by log, for logs with metrics beside them."""
        return {self.name(report): report.evaluated for report in self.reports if report.evaluated}

    @cached_property
    def points(self) -> "convergence.Points":
        """Reference convergence points."""
        from llama31.mlperf.check import convergence  # imports scipy (0.5 s); user errors come first

        return convergence.Points(self.ruleset)

    @cached_property
    def convergence(self) -> "convergence.Verdict | None":
        """Verdict by the reference points; None unless all logs are closed and of one batch size."""
        batches = {report.log.whole(constants.GLOBAL_BATCH_SIZE) for report in self.reports}
        batch = batches.pop()
        if batches or batch is None or not self.is_closed:
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
        """Number of unreadable lines in all logs."""
        return sum(report.damaged.count for report in self.reports)

    @property
    def is_accepted(self) -> bool | None:
        """Whether MLCommons' checkers accept these logs as a submission; None if unknown, or not ten logs."""
        if not self.is_complete or self.damaged or not self.is_closed:
            return None
        logs = [report.log for report in self.reports]
        converges = self.convergence is not None and self.convergence.passes
        is_checked = all(official.can_check(log.records) for log in logs)
        return self.number_accepted >= len(logs) - 1 and is_checked and converges and official.accepts_seeds(logs)

    @property
    def number_accepted(self) -> int:
        """Number of logs that the official checker accepts."""
        return sum(bool(report.is_accepted) for report in self.reports)

    @cached_property
    def failures(self) -> list[str]:
        """All failures, one a line. The convergence of a single run does not count: it says little of a mean."""
        single = {self.name(one): () if one in self.excused else one.failures for one in self.reports}
        found = list(compare_logs.single_log_lines(single))
        found += [str(finding) for findings in self.checks.values() for finding in findings]
        if len(self.reports) > 1 and self.convergence and not self.convergence.passes:
            found.append(f"convergence: {self.convergence.text}")
        if not found and self.is_accepted is False:
            found.append("MLCommons' checkers do not accept these logs as a submission")
        return found

    @property
    def passes(self) -> bool:
        """Whether each log passes, and they pass together."""
        return not self.failures

    @property
    def minutes(self) -> float | None:
        """Score before the checker's scaling: mean minutes to train without the fastest and the slowest run."""
        logs = [report.log for report in self.reports]
        times = [
            score.minutes(log) if score.has_converged(log) and score.says_success(log) else math.inf for log in logs
        ]
        known = [time for time in times if time is not None]
        if not self.is_complete or len(known) < len(times):
            return None
        mean = score.olympic_mean(known)
        return mean if math.isfinite(mean) else None


def check(runs: Sequence[Path], ruleset: str) -> int:
    """Check logs, given as files or run directories, and print the report. Return 0 if they pass, else 1."""
    found = judge(runs, ruleset)
    print("\n".join(printable(line) for text in lines(found) for line in text.split("\n")))
    return 0 if found.passes else 1


def judge(runs: Sequence[Path], ruleset: str) -> SubmissionCheck:
    """Check logs, given as files or run directories. Raises UserError if one is missing or given twice."""
    resolved = [real_path(run) for run in runs]
    if twice := [str(run) for run in dict.fromkeys(resolved) if resolved.count(run) > 1]:
        raise UserError(f"{', '.join(twice)}: given more than once")
    return SubmissionCheck(ruleset, [one_log.check(run, ruleset) for run in runs])


def lines(found: SubmissionCheck) -> Iterator[str]:
    """Yield the report; the last line is the verdict."""
    if len(found.reports) == 1:
        yield from one_log.lines(found.reports[0], list(_convergence(found)))
        return
    yield f"ruleset {found.ruleset}, {len(found.reports)} logs in {found.directory}"
    yield f"{'':<9}{'seed':>11}{'samples':>10}{'minutes':>9}{'loss':>8}  log"
    yield from (f"{_row(report)}  {found.name(report)}" for report in found.reports)
    yield from _common("departs from the closed division", found, lambda report: report.departures)
    yield from _common("note", found, lambda report: report.notes)
    if len(found.evaluated) < len(found.reports):
        without = f"{len(found.reports) - len(found.evaluated)} of {len(found.reports)} logs"
        yield f"note: token_hash: {without} without {paths.METRICS} beside them; their validation data is unknown"
    if unstated := [key for key in official.settings() if key not in found.stated and key != constants.SEED]:
        yield f"note: not compared, since no log states them: {listed(unstated, room=1000)}"
    yield from (f"passes: {title}" for title, findings in found.checks.items() if not findings)
    yield from (f"note: {note}" for note in excuses(found))
    yield from closing(found)
    yield from (f"fails: {line}" for line in found.failures)
    yield f"verdict: {_verdict(found)}"


def excuses(found: SubmissionCheck) -> Iterator[str]:
    """Yield what is wrong with the one log of ten that may fail, and why it may."""
    for report in found.excused:
        if report in found.unconverged:
            is_ended = report.log.first(constants.RUN_STOP)
            how = "missed the target" if is_ended else f"was killed: no {constants.RUN_STOP}"
            why = f"{how}; one run of a submission may, and counts as the slowest"
        else:
            why = "fails; MLCommons' package checker accepts one such log of ten, under olympic scoring"
        yield from (f"{found.name(report)}: {what}" for what in (why, *report.failures))


def _row(report: Report) -> str:
    minutes, samples = score.minutes(report.log), score.samples(report.log)
    loss = report.log.last(constants.EVAL_ACCURACY)
    verdict, seed = "passes" if report.passes else "fails", shown(report.log.value(constants.SEED))
    trained = "?" if samples is None else f"{samples:,}"
    time = "?" if minutes is None else f"{minutes:.2f}"
    last = f"{loss.value:.4f}" if loss and is_number(loss.value) else "?"
    return f"{verdict:<9}{seed:>11}{trained:>10}{time:>9}{last:>8}"


def _common(title: str, found: SubmissionCheck, of_report: Callable[[Report], Sequence[str]]) -> Iterator[str]:
    """Yield lines that logs share, once each, with the names of these logs unless all share them."""
    number = len(found.reports)
    by_line: dict[str, list[str]] = {}
    for report in found.reports:
        for line in of_report(report):
            by_line.setdefault(line, []).append(found.name(report))
    for line, files in by_line.items():
        yield f"{title}: {'' if len(files) == number else f'{compare_logs.named(files, number)}: '}{line}"


def closing(found: SubmissionCheck) -> Iterator[str]:
    """Yield convergence and score."""
    yield from _convergence(found)
    if found.minutes is None or found.convergence is None:
        return
    line = f"score: {found.minutes:.3f} minutes, mean without the fastest and the slowest"
    scaling = found.convergence.scaling
    yield f"{line}; {found.minutes * scaling:.3f} with the reference's scaling" if scaling and scaling != 1 else line


def _convergence(found: SubmissionCheck) -> Iterator[str]:
    if found.convergence is None:
        yield "rcp: not judged; reference points are for closed logs of one global batch size"
        return
    batch = found.reports[0].log.whole(constants.GLOBAL_BATCH_SIZE)
    if batch and (reference := found.points.reference(batch)):
        yield f"rcp: the reference: {reference}"
    yield f"rcp: {found.convergence.text}{one_log.damage(found.damaged)}"


def _verdict(found: SubmissionCheck) -> str:
    number, wanted = len(found.reports), rules.RUNS_PER_SUBMISSION
    if not found.passes:
        reasons = len(found.failures)
        verdict = f"fail for {reasons} reason{'s' if reasons > 1 else ''}"
        if found.is_accepted is not None:
            accept = "accept" if found.is_accepted else "do not accept"
            verdict += f"; MLCommons' checkers {accept} them as a submission"
        elif not found.damaged and found.is_closed:
            verdict += f"; the official checker accepts {found.number_accepted} of the {number} logs"
        return verdict + one_log.damage(found.damaged)
    if not found.is_closed:
        return "pass outside the closed division"
    if not found.is_complete:
        return f"pass so far; a submission has {wanted} runs, these are {number}"
    return f"pass as the {wanted} runs of a submission in the closed division, ruleset {found.ruleset}"
