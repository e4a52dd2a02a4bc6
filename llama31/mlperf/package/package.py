"""`python3 -m llama31 package`: the tree of a submission from ten runs, judged before it is written and after.

    DIR/ORG/systems/SYSTEM.json
    DIR/ORG/results/SYSTEM/llama31_8b/result_0.txt ... result_9.txt    the logs, byte for byte, in order of their start
    DIR/ORG/benchmarks/llama31_8b/implementations/SYSTEM/              the code, and how to run it

What cannot be right is refused before anything is written. The rest is written under another name, MLCommons' checkers
look at it there, and it gets its name if they accept it.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named, publish
from llama31.config import paths
from llama31.config.mlperf_names import are_same, directory_name, is_name
from llama31.mlperf.check import submission
from llama31.mlperf.check.one_log import Report
from llama31.mlperf.check.submission import Several
from llama31.mlperf.package import code, official_checkers, system_description
from llama31.mlperf.package.official_checkers import CheckerResult
from llama31.run_dir import record
from llama31.settings import Settings

NOT_NAMED = ("unset", "SUBMISSION_ORG_PLACEHOLDER")
"""What a log says where nobody has named the organisation."""


@dataclass(frozen=True)
class SubmittedRun:
    """One run of a submission."""

    directory: Path
    settings: Settings
    record: dict[str, Any]
    """What run.json says."""
    report: Report

    @property
    def seed(self) -> int:
        """Seed, as the log has it."""
        return int(self.report.log.value(constants.SEED))


def package(
    org: str, system_file: Path, run_dirs: Sequence[Path], output: Path, ruleset: str, checkout: Path = paths.REPOSITORY
) -> int:
    """Makes the tree; 0 if it is there and the official checkers accept it, 1 if they do not and nothing is there.

    Raises UserError, before anything is written, for all that cannot be right.
    """
    directories = [paths.latest_run(run_dir) for run_dir in run_dirs]
    _refuse(_misnamed(org, directories, output))
    description = system_description.read(system_file)
    found = submission.judge(directories, ruleset)
    said = _said(found, constants.SUBMISSION_ORG)
    submitters = [org, *([said] if said not in NOT_NAMED else [])]
    _refuse(system_description.problems(system_file, description, submitters))
    runs = [_load(report) for report in found.reports]
    _refuse(_unfit(description, runs, found))
    runs.sort(key=lambda one: one.report.log.all(constants.RUN_START)[0].time_ms)
    commit = code.commit_of([one.record.get("commit") for one in runs], checkout)

    output, name = output.absolute(), system_file.stem
    with failures_named(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{output.name}.", suffix=PARTIAL, dir=output.parent) as directory:
            tree = Path(directory) / output.name
            _write(tree, org, system_file, runs, commit, checkout)
            checked = official_checkers.check(tree, org, name, ruleset)
            # package_checker leaves the scaling of the score there, and will again at MLCommons.
            (_results(tree, org, name) / "scaling.json").unlink(missing_ok=True)
            accepted = all(one.accepts for one in checked)
            if accepted:
                os.sync()
                publish(tree, output)
    notes = [
        *system_description.notes(system_file, description),
        *system_description.disagreements(
            system_file,
            description,
            _said(found, constants.SUBMISSION_PLATFORM),
            _said(found, constants.SUBMISSION_STATUS),
        ),
    ]
    if said not in NOT_NAMED and not are_same(said, org):
        notes.append(f"{constants.SUBMISSION_ORG} is {said} in the logs, which are packed below {org}")
    print("\n".join(_lines(runs, found, checked, notes)))
    print(f"{output}: {'complete' if accepted else 'not written, for the checkers do not accept it'}")
    return 0 if accepted else 1


def _said(found: Several, key: str) -> str:
    """What the logs say, all of them or the first: that they agree is checked with the other settings."""
    value = found.reports[0].log.value(key)
    return value if isinstance(value, str) else ""


def _refuse(problems: Iterable[str]) -> None:
    if lines := list(problems):
        raise UserError(lines)


def _misnamed(org: str, directories: Sequence[Path], output: Path) -> Iterator[str]:
    """What is wrong with the arguments themselves."""
    if not is_name(org):
        works = directory_name(org)
        yield f"--org {org}: names a directory; use letters, digits, -, _ and ." + (
            f"; --org {works} works" if works else ""
        )
    if os.path.lexists(output):
        yield f"-o {output}: exists, and is not touched; name a directory that does not"
    if len(directories) != rules.RUNS_PER_SUBMISSION:
        yield f"{len(directories)} runs: a submission has {rules.RUNS_PER_SUBMISSION}"
    for directory in directories:
        if not all((directory / name).is_file() for name in (paths.SETTINGS, paths.RECORD, paths.MLPERF_LOG)):
            wanted = f"{paths.SETTINGS}, {paths.RECORD} and {paths.MLPERF_LOG}"
            yield f"{directory}: no run directory, which has {wanted}; a submission holds the code of its runs too"


def _load(report: Report) -> SubmittedRun:
    directory = report.file.parent
    return SubmittedRun(directory, record.load_settings(directory), record.load_record(directory), report)


def _unfit(description: Mapping[str, str], runs: Sequence[SubmittedRun], found: Several) -> Iterator[str]:
    """What keeps these runs from being a submission of this system."""
    number = len(found.unconverged)
    if number > 1:
        files = ", ".join(str(report.file) for report in found.unconverged)
        yield f"{number} runs missed the target, and one may: {files}"
    for report in found.reports:
        if not report.is_closed:
            yield f"{report.file}: a log of the open division; package makes submissions of the closed one"
    if not found.holds:
        yield from found.failures
    nodes, per_node = (system_description.count(description, field) for field in system_description.COUNTS)
    for one in runs:
        settings = one.settings
        ran = f"ran on {settings.nnodes} x {settings.gpus_per_node} accelerators"
        if nodes and per_node and settings.nnodes * settings.gpus_per_node != nodes * per_node:
            yield f"{one.directory}: {ran}; the system description has {nodes} x {per_node}"


def _write(tree: Path, org: str, system_file: Path, runs: Sequence[SubmittedRun], commit: str, checkout: Path) -> None:
    """Writes the tree of runs in the order of their logs' numbers."""
    name = system_file.stem
    systems, results = tree / org / "systems", _results(tree, org, name)
    systems.mkdir(parents=True)
    results.mkdir(parents=True)
    shutil.copyfile(system_file, systems / system_file.name)
    for number, one in enumerate(runs):
        shutil.copyfile(one.report.file, results / f"result_{number}.txt")
    implementation = tree / org / "benchmarks" / rules.BENCHMARK / "implementations" / name
    versions = {"Python": str(runs[0].record.get("python")), **runs[0].record.get("versions", {})}
    code.write(
        implementation, f"{org}, {name}", runs[0].settings, [one.seed for one in runs], commit, versions, checkout
    )


def _results(tree: Path, org: str, name: str) -> Path:
    return tree / org / "results" / name / rules.BENCHMARK


def _lines(
    runs: Sequence[SubmittedRun], found: Several, said: Sequence[CheckerResult], notes: Sequence[str]
) -> Iterator[str]:
    yield "logs, in the order of their start:"
    for number, one in enumerate(runs):
        yield f"  result_{number}.txt  seed {one.seed:<10}  {one.directory}"
    if runs[0].record.get("commit") is None:
        yield "note: the runs do not say which commit they ran; this checkout's is packed"
    for one in runs:
        if one.record.get("uncommitted_changes"):
            yield f"note: {one.directory}: ran with uncommitted changes, which the packed commit does not have"
    yield from (f"note: {note}" for note in (*notes, *submission.excuses(found)))
    yield from submission.closing(found)
    for checked in said:
        yield f"{checked.checker}: {'accepts the tree' if checked.accepts else 'does not accept the tree'}"
        yield from (f"{checked.checker}: {finding}" for finding in checked.findings)
