"""Output that README.md and docs/ quote or explain: verdicts, convergence, states, files of a run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from documents import page, table
from submissions import ten_runs, write_run

from dev.support.benchmark_run import SETTINGS, write_log
from llama31 import rules
from llama31.config import paths
from llama31.mlperf.check import convergence, submission
from llama31.run_dir.events import ABORTED, TARGET_NOT_REACHED, Outcome
from llama31.settings import Division
from llama31.status import run_state

RESULTS, RUNNING = page("results"), page("running")


def test_verdicts_are_those_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A log of the closed division, one with a departure, and one that did not reach its target."""
    logs = {
        write_log(tmp_path / "closed.log"): 0,
        write_log(tmp_path / "open.log", departures=["TARGET=3.3: for the sake of argument"]): 0,
        write_log(tmp_path / "failed.log", outcome=Outcome(ABORTED, "x", TARGET_NOT_REACHED, 1, SETTINGS.gbs)): 1,
    }
    for (log, exit_code), row in zip(logs.items(), table(RESULTS, "Verdict begins with"), strict=True):
        assert submission.check([log], rules.RULESETS[-1]) == exit_code == int(row["Exit code"])
        assert f"\nverdict: {row['Verdict begins with']}" in capsys.readouterr().out


def test_verdicts_over_several_are_those_of_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten runs, two of them, two with a departure, and two with one seed; convergence as the rows say, in each case."""
    small = replace(SETTINGS, submission_division=Division.open)
    runs = ten_runs(tmp_path / "ten")
    opened = [write_run(tmp_path / f"open-{seed}", small, seed=seed) for seed in (1, 2)]
    same = [write_run(tmp_path / f"same-{number}", seed=1, evaluations=15) for number in (1, 2)]
    rows = table(RESULTS, "Verdict over several begins with")
    for given, row in zip((runs, runs[:2], opened, same), rows, strict=True):
        assert submission.check(given, rules.RULESETS[-1]) == int(row["Exit code"])
        assert f"\nverdict: {row['Verdict over several begins with']}" in capsys.readouterr().out


def test_words_on_convergence_are_those_of_check() -> None:
    points = convergence.Points(rules.RULESETS[-1])
    source = "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (convergence, submission))
    words = [row["Convergence"] for row in table(RESULTS, "Convergence")]
    early = [([], []), ([184_320], []), ([208_896] * 3, []), ([147_456] * 3, [])]
    for given, word in zip(early, words[2:], strict=False):
        assert points.early(32, *given).text.startswith(word), word
    assert all(re.search(rf"\b{word}", source) for word in words)


def test_run_directory_is_described() -> None:
    rows = {row["In the run directory"].strip("`") for row in table(RUNNING, "In the run directory")}
    submitted = {row["For each experiment"].strip("`") for row in table(page("slurm"), "For each experiment")}
    of_several = {paths.RUNS_SCRIPT, paths.runs_log("JOB")}
    assert submitted == {paths.SCRIPT, paths.SUBMISSION, paths.slurm_log("JOB"), "job-JOB", paths.LATEST, *of_several}
    files = {value for name, value in vars(paths).items() if name.isupper() and isinstance(value, str)}
    assert rows | submitted == files | {paths.slurm_log("JOB"), paths.runs_log("JOB"), "job-JOB"}


def test_states_are_those_of_status() -> None:
    source = Path(run_state.__file__).read_text(encoding="utf-8")
    states = [state for row in table(RUNNING, "State") for state in row["State"].split(", ")]
    assert {run_state.REACHED, run_state.RUNNING, *run_state.ENDS.values()} <= set(states)
    for state in set(states) - {"damaged"}:  # status itself reports it for a run that it cannot read
        assert re.search(rf"[\"']{state}", source), state
