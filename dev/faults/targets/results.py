"""Targets that read runs: check, report, package, status, doctor; and submit."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from dev.faults import inputs
from dev.faults.target import Files, Target
from dev.faults.targets.commands import llama31, without_numbers, without_seconds, without_times
from dev.support.benchmark_run import SETTINGS, interval, losses, write_log
from dev.support.runs import REPOSITORY, arguments
from llama31 import rules
from llama31.config import paths
from llama31.mlperf.package import system_description
from llama31.run_dir import record
from llama31.run_dir.events import Evaluation, Outcome
from llama31.run_dir.metrics_file import MetricsWriter

ORG, SYSTEM = "Example", "8xH200"
EVALUATIONS = (14, 15, 14, 15, 15, 14, 16, 14, 15, 15)
"""Of ten runs whose convergence is like the reference's."""
STAND_INS = Path(__file__).with_name("stand_ins")
"""Directory of programs: an sbatch that only answers with a job's number."""


def _runs(directory: Path, count: int = len(EVALUATIONS)) -> None:
    """Write run directories that reached the target, by the writers of a run."""
    for number, evaluations in enumerate(EVALUATIONS[:count]):
        run_dir = directory / f"run-{number}"
        run_dir.mkdir()
        found = losses(SETTINGS.target, evaluations)
        write_log(run_dir / paths.MLPERF_LOG, SETTINGS, seed=100 + number, validation_losses=found)
        metrics = MetricsWriter(run_dir / paths.METRICS)
        for place, loss in enumerate(found, 1):
            step = place * interval(SETTINGS)
            samples = step * SETTINGS.gbs
            reached = loss <= SETTINGS.target
            metrics.evaluation_ended(Evaluation(step, samples, loss, SETTINGS.eval_samples, "0" * 16, 10.0, reached))
        metrics.run_stopped(Outcome("success", "target reached", 0, step, samples))
        record.store_settings(run_dir, SETTINGS)
        record.store_record(run_dir, {"commit": None, "python": "3.11.7", "versions": {"torch": "2.13.0"}})
        record.store_outcome(run_dir, Outcome("success", "target reached", 0, step, samples))


def _submission(directory: Path) -> None:
    _runs(directory)
    content = dict.fromkeys(system_description.FIELDS, "something") | dict.fromkeys(system_description.COUNTS, "1")
    content |= {"submitter": ORG, "division": "closed", "status": "Available on-premise"}
    (directory / f"{SYSTEM}.json").write_text(json.dumps(content))


def _with_old_report(directory: Path) -> None:
    _runs(directory, 3)
    inputs.write(directory / "report.html", b"an earlier report\n")


def _run_dirs(work: Path) -> list[Path]:
    return sorted(work.glob("run-*"))


def _submit(work: Path) -> Sequence[str]:
    settings = {**inputs.run_settings(work), "PARTITION": "debug", "NPAR": 2, "TIME": 60, "SAVE_CKPT": 1}
    settings["CONTINUAL_CKPT"] = work / "checkpoints"
    return ["bash", str(REPOSITORY / "run_llama31.sh"), *arguments(settings)]


def _submitted(work: Path) -> Files:
    """Return the files of the run directories that submission.json calls submitted, without names of times."""
    found: Files = {}
    for submission in work.glob(f"runs/*/{paths.SUBMISSION}"):
        for file in submission.parent.iterdir():
            text = without_times(file.read_text(errors="replace")).encode()
            found[f"runs/RUN/{file.name}"] = hashlib.sha256(text).hexdigest()
    return found


RESULTS = [
    Target(
        "check",
        _runs,
        lambda work: llama31("check", *_run_dirs(work)),
        codes_of_defects=frozenset({1}),
        output=without_seconds,
    ),
    Target("report", _with_old_report, lambda work: llama31("report", *_run_dirs(work), "-o", work / "report.html")),
    Target(
        "package",
        _submission,
        lambda work: llama31(
            "package", "--org", ORG, "--system", work / f"{SYSTEM}.json", "-o", work / "out", *_run_dirs(work)
        ),
        codes_of_defects=frozenset({1}),
        output=without_seconds,
        refuses_when_done=True,
        may_remain=r"requirements\.lock$",
        timeout=120,
    ),
    Target(
        "status",
        lambda directory: _runs(directory, 3),
        lambda work: llama31("status", work),
        codes_of_defects=frozenset({1}),
        output=lambda text: text,
    ),
    Target(
        "doctor",
        inputs.token_files,
        lambda work: llama31("doctor", *arguments(inputs.run_settings(work))),
        codes_of_defects=frozenset({1}),
        output=without_numbers,
        timeout=180,
    ),
    Target(
        "submit",
        inputs.token_files,
        _submit,
        environment={"PATH": f"{STAND_INS}:/usr/local/bin:/usr/bin:/bin"},
        view=_submitted,
        may_remain=r"\.partial$",  # in the run directory of a killed submission
    ),
]
assert len(EVALUATIONS) == rules.RUNS_PER_SUBMISSION
