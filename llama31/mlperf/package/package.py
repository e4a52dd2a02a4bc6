"""`python3 -m llama31 package`: build a submission's tree from ten runs, checked before and after writing.

    DIR/ORG/systems/SYSTEM.json
    DIR/ORG/results/SYSTEM/llama31_8b/result_0.txt ... result_9.txt    the logs, unchanged, in order of their start
    DIR/ORG/benchmarks/llama31_8b/implementations/SYSTEM/              the code, and how to run it

Invalid input is rejected before anything is written. The tree is then written under a temporary name, and renamed if
MLCommons' checkers accept it.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named, publish
from llama31.common.json_files import load_object
from llama31.common.locks import temporary_lock
from llama31.config import paths
from llama31.config.mlperf_names import are_same, directory_name, is_name
from llama31.mlperf.check import submission
from llama31.mlperf.check.one_log import Report
from llama31.mlperf.check.submission import SubmissionCheck
from llama31.mlperf.package import code, official_checkers, system_description
from llama31.mlperf.package.official_checkers import CheckerResult
from llama31.run_dir import record
from llama31.settings import Settings

NOT_NAMED = ("unset", "SUBMISSION_ORG_PLACEHOLDER")
"""Values of submission_org in logs that name no organisation."""


@dataclass(frozen=True)
class SubmittedRun:
    """One run of a submission."""

    directory: Path
    settings: Settings
    record: dict[str, Any]
    """Content of run.json."""
    report: Report

    @property
    def seed(self) -> int:
        """Seed, from the log."""
        return int(self.report.log.value(constants.SEED))


def package(
    org: str, system_file: Path, run_dirs: Sequence[Path], output: Path, ruleset: str, checkout: Path = paths.REPOSITORY
) -> int:
    """Build the tree; return 0 if the official checkers accept it, else 1, and then no tree is left.

    Raises UserError, before anything is written, if the input cannot make a valid submission.
    """
    directories = [paths.latest_run(run_dir) for run_dir in run_dirs]
    _raise_if_any(_argument_problems(org, directories, output))
    description = load_object(system_file)
    found = submission.judge(directories, ruleset)
    logged_org = _logged(found, constants.SUBMISSION_ORG)
    submitters = [org, *([logged_org] if logged_org not in NOT_NAMED else [])]
    _raise_if_any(system_description.problems(system_file, description, submitters))
    runs = [
        SubmittedRun(run_dir, record.load_settings(run_dir), record.load_record(run_dir), report)
        for run_dir, report in zip(directories, found.reports, strict=True)
    ]
    _raise_if_any(_run_problems(description, runs, found))
    runs.sort(key=lambda one: one.report.log.all(constants.RUN_START)[0].time_ms)
    commit = code.commit_of([one.record.get("commit") for one in runs], checkout)

    output, name = output.absolute(), system_file.stem
    with failures_named(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with _unfinished(output) as tree:
            _write(tree, org, system_file, runs, commit, checkout)
            checked = official_checkers.check(tree, org, name, ruleset)
            # package_checker writes the scaling of the score here, and will again at MLCommons.
            (_results(tree, org, name) / "scaling.json").unlink(missing_ok=True)
            accepted = all(one.accepts for one in checked)
            if accepted:
                os.sync()
                publish(tree, output)
    platform, status = (_logged(found, key) for key in (constants.SUBMISSION_PLATFORM, constants.SUBMISSION_STATUS))
    notes = [
        *system_description.notes(system_file, description),
        *system_description.disagreements(system_file, description, platform, status),
    ]
    if logged_org not in NOT_NAMED and not are_same(logged_org, org):
        notes.append(f"{constants.SUBMISSION_ORG} is {logged_org} in the logs, but {org} in the tree")
    print("\n".join(_lines(runs, found, checked, notes)))
    print(f"{output}: {'complete' if accepted else 'not written: the checkers do not accept it'}")
    return 0 if accepted else 1


@contextmanager
def _unfinished(output: Path) -> Iterator[Path]:
    """Yield the path of the tree while it is written, in a directory that is removed at the end.

    A killed call leaves that directory, and the next one removes it. Raises UserError if another process uses it.
    """
    partial = output.with_name(output.name + PARTIAL)
    with temporary_lock(output.with_name(f"{output.name}.lock"), f"{output}: another process is writing it"):
        if partial.exists():
            if {path.name for path in partial.iterdir()} - {output.name}:
                raise UserError(f"{partial}: exists, but not from an interrupted call; remove it")
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            yield partial / output.name
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _logged(found: SubmissionCheck, key: str) -> str:
    """Return the value in the first log, or an empty string; the logs' agreement is checked elsewhere."""
    value = found.reports[0].log.value(key)
    return value if isinstance(value, str) else ""


def _raise_if_any(problems: Iterable[str]) -> None:
    if lines := list(problems):
        raise UserError(lines)


def _argument_problems(org: str, directories: Sequence[Path], output: Path) -> Iterator[str]:
    """Yield what is wrong with the arguments themselves."""
    if not is_name(org):
        works = f"; --org {name} works" if (name := directory_name(org)) else ""
        yield f"--org {org}: not a valid directory name; use letters, digits, -, _ and .{works}"
    if os.path.lexists(output):
        yield f"-o {output}: already exists; name a new directory"
    if len(directories) != rules.RUNS_PER_SUBMISSION:
        yield f"{len(directories)} runs: a submission has {rules.RUNS_PER_SUBMISSION}"
    for directory in directories:
        if not all((directory / name).is_file() for name in (paths.SETTINGS, paths.RECORD, paths.MLPERF_LOG)):
            wanted = f"{paths.SETTINGS}, {paths.RECORD} and {paths.MLPERF_LOG}"
            yield f"{directory}: not a run directory, which has {wanted}; a submission also has the code of its runs"


def _run_problems(
    description: Mapping[str, str], runs: Sequence[SubmittedRun], found: SubmissionCheck
) -> Iterator[str]:
    """Yield why these runs cannot be a submission of this system."""
    number = len(found.unconverged)
    if number > 1:
        files = ", ".join(str(report.file) for report in found.unconverged)
        yield f"{number} runs missed the target, only one may: {files}"
    for report in found.reports:
        if not report.is_closed:
            yield f"{report.file}: a log of the open division; package only makes closed submissions"
    if not found.passes:
        yield from found.failures
    nodes, per_node = (system_description.count(description, field) for field in system_description.COUNTS)
    for one in runs:
        settings = one.settings
        ran = f"ran on {settings.nnodes} x {settings.gpus_per_node} accelerators"
        if nodes and per_node and settings.nnodes * settings.gpus_per_node != nodes * per_node:
            yield f"{one.directory}: {ran}; the system description has {nodes} x {per_node}"


def _write(tree: Path, org: str, system_file: Path, runs: Sequence[SubmittedRun], commit: str, checkout: Path) -> None:
    """Write the tree with the runs in the order of their logs' numbers."""
    name = system_file.stem
    systems, results = tree / org / "systems", _results(tree, org, name)
    systems.mkdir(parents=True)
    results.mkdir(parents=True)
    shutil.copyfile(system_file, systems / system_file.name)
    for number, one in enumerate(runs):
        shutil.copyfile(one.report.file, results / f"result_{number}.txt")
    implementation = tree / org / "benchmarks" / rules.BENCHMARK / "implementations" / name
    versions = {"Python": str(runs[0].record.get("python")), **runs[0].record.get("versions", {})}
    seeds = [one.seed for one in runs]
    code.write(implementation, f"{org}, {name}", runs[0].settings, seeds, commit, versions, checkout)


def _results(tree: Path, org: str, name: str) -> Path:
    return tree / org / "results" / name / rules.BENCHMARK


def _lines(
    runs: Sequence[SubmittedRun], found: SubmissionCheck, verdicts: Sequence[CheckerResult], notes: Sequence[str]
) -> Iterator[str]:
    yield "logs, in the order of their start:"
    for number, one in enumerate(runs):
        yield f"  result_{number}.txt  seed {one.seed:<10}  {one.directory}"
    if runs[0].record.get("commit") is None:
        yield "note: the runs did not record a commit; this checkout's is packed"
    for one in runs:
        if one.record.get("uncommitted_changes"):
            yield f"note: {one.directory}: ran with uncommitted changes, which are not in the packed commit"
    yield from (f"note: {note}" for note in (*notes, *submission.excuses(found)))
    yield from submission.closing(found)
    for checked in verdicts:
        yield f"{checked.checker}: {'accepts the tree' if checked.accepts else 'does not accept the tree'}"
        yield from (f"{checked.checker}: {finding}" for finding in checked.findings)
