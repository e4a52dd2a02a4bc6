"""`llama31 package`: refused runs, and unusual ones that it packs."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from packed_runs import ORG, SYSTEM, describe, edit_json, pack, refusals, runs_in
from submissions import edit, missed, ten_runs

from dev.support.benchmark_run import SETTINGS
from llama31 import rules
from llama31.config import departures, paths
from llama31.mlperf.package import code, system_description
from llama31.run_dir import record
from llama31.settings import Division

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rule_files_are_parsed_once")]

# What is refused


def test_what_exists_is_not_touched(fresh: Path) -> None:
    assert refusals(fresh, output=fresh / "out") == [f"-o {fresh / 'out'}: already exists; name a new directory"]


def test_the_number_of_runs(fresh: Path) -> None:
    assert refusals(fresh, run_dirs=runs_in(fresh)[:9]) == ["9 runs: a submission has 10"]


def test_a_run_given_twice(fresh: Path) -> None:
    runs = runs_in(fresh)
    assert refusals(fresh, run_dirs=[*runs[:9], runs[0]]) == [f"{runs[0]}: given more than once"]


def test_a_log_alone_is_no_run(fresh: Path) -> None:
    runs = runs_in(fresh)
    (line,) = refusals(fresh, run_dirs=[*runs[:9], runs[9] / paths.MLPERF_LOG])
    assert "not a run directory, which has settings.yaml, run.json and mlperf.log" in line


@pytest.mark.parametrize("org", ["", "two words", "../up", ".hidden"])
def test_an_organisation_that_names_no_directory(fresh: Path, org: str) -> None:
    assert refusals(fresh, org=org)[0].startswith(f"--org {org}: not a valid directory name")


def test_a_description_with_blanks(fresh: Path) -> None:
    edit_json(fresh / f"{SYSTEM}.json", cooling=f"{system_description.BLANK}air or liquid")
    assert refusals(fresh) == [f"{fresh / SYSTEM}.json: cooling is not filled in; air or liquid"]


def test_a_system_of_another_size(fresh: Path) -> None:
    edit_json(fresh / f"{SYSTEM}.json", accelerators_per_node="8")
    lines = refusals(fresh)
    assert len(lines) == 10
    assert lines[0].endswith("run-0: ran on 1 x 1 accelerators; the system description has 1 x 8")


def renamed(directory: Path, **values: str) -> None:
    """Change the values of these keys in the ten logs."""
    for run in runs_in(directory):
        for key, value in values.items():
            edit(run / paths.MLPERF_LOG, key, lambda line, value=value: line | {"value": value})


def test_an_organisation_with_spaces_is_packed(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed(fresh, submission_org="Acme Corp.")
    edit_json(fresh / f"{SYSTEM}.json", submitter="Acme Corp.", system_name=SYSTEM, status="Available on-premise")
    (line,) = refusals(fresh, org="Acme Corp.")
    assert line.endswith("--org Acme_Corp works")
    assert pack(fresh, org="Acme_Corp") == 0
    assert (fresh / "new" / "Acme_Corp" / "results" / SYSTEM / rules.BENCHMARK / "result_9.txt").is_file()
    assert "note: " not in re.sub("note: the runs did not record.*", "", capsys.readouterr().out)


def test_an_organisation_may_have_another_directory(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed(fresh, submission_org="International Machines")
    edit_json(fresh / f"{SYSTEM}.json", submitter="International Machines")
    assert pack(fresh, org="IM") == 0
    printed = capsys.readouterr().out
    assert "note: submission_org is International Machines in the logs, but IM in the tree\n" in printed
    edit_json(fresh / f"{SYSTEM}.json", submitter="Else")
    shutil.rmtree(fresh / "new")
    (line,) = refusals(fresh, org="IM")
    assert line.endswith("submitter is Else; must be IM or International Machines")


def test_platform_and_status_are_compared(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed(fresh, submission_platform="8xB200", submission_status="cloud")
    file = fresh / f"{SYSTEM}.json"
    edit_json(file, system_name="H200 box", status="Available on-premise", cooling="", host_processor_caches="")
    assert pack(fresh) == 0
    printed = capsys.readouterr().out
    assert f"note: submission_platform is 8xB200 in the logs; {file} has system_name H200 box\n" in printed
    assert f"note: submission_status is cloud in the logs; {file} has status Available on-premise\n" in printed
    assert f"note: {file}: empty, which MLCommons accepts: host_processor_caches, cooling\n" in printed
    renamed(fresh, submission_platform="H200 Box", submission_status="onprem")
    shutil.rmtree(fresh / "new")
    assert pack(fresh) == 0
    assert "in the logs" not in capsys.readouterr().out


def test_a_log_that_does_not_hold(fresh: Path) -> None:
    """By MLCommons' rules one log of ten may be invalid, except in what only we check; two may not."""
    first, second = (fresh / f"run-{number}" / paths.MLPERF_LOG for number in (3, 4))
    edit(first, "opt_name", lambda line: line | {"value": "adam"})
    edit(second, "init_checkpoint_step", lambda line: line | {"value": 5})
    assert any(line.startswith(f"run-4/{second.name}: init_checkpoint_step: found 5") for line in refusals(fresh))
    edit(second, "opt_name", lambda line: line | {"value": "muon"})
    assert any(line.startswith("opt_name: found") for line in refusals(fresh))


def test_equal_seeds(fresh: Path) -> None:
    edit(fresh / "run-3" / paths.MLPERF_LOG, "seed", lambda line: line | {"value": 100})
    (line,) = refusals(fresh)
    assert line.startswith("seed: found 100 in ") and line.endswith("wants a different seed in each log")


def test_two_runs_that_missed_the_target(fresh: Path) -> None:
    for number in (1, 2):
        missed(fresh / f"run-{number}" / paths.MLPERF_LOG, seed=100 + number)
    assert refusals(fresh)[0].startswith("2 runs missed the target, only one may: ")


def test_one_run_that_missed_the_target_is_packed(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missed(fresh / "run-1" / paths.MLPERF_LOG, seed=101)
    for run in runs_in(fresh):
        changes = run.name == "run-2"
        record.store_record(run, {"commit": code.commit_of([None]), "uncommitted_changes": changes, "python": "3.12"})
    assert pack(fresh) == 0
    printed = capsys.readouterr().out
    assert "rcp: accepted" in printed
    assert f"note: run-1/{paths.MLPERF_LOG}: missed the target; one run of a submission may" in printed
    assert f"note: {fresh / 'run-2'}: ran with uncommitted changes, which are not in the packed commit" in printed


def test_runs_that_converge_too_fast(tmp_path: Path) -> None:
    ten_runs(tmp_path, evaluations=[13] * 10)
    describe(tmp_path)
    (line,) = refusals(tmp_path)
    assert line.startswith("convergence: rejected: converges faster than the reference's minimum: 159,744 samples")


def test_runs_of_the_open_division(tmp_path: Path) -> None:
    ten_runs(tmp_path, replace(SETTINGS, submission_division=Division.open))
    describe(tmp_path)
    lines = refusals(tmp_path)
    assert len(lines) == 10 and lines[0].endswith("a log of the open division; package only makes closed submissions")


def test_runs_of_different_code(fresh: Path) -> None:
    for run, commit in zip(runs_in(fresh), ["a" * 40, *["b" * 40] * 9], strict=True):
        record.store_record(run, {"commit": commit})
    assert refusals(fresh) == [f"the runs ran different code: commits {'a' * 40}, {'b' * 40}"]


def test_runs_of_code_that_is_not_here(fresh: Path) -> None:
    for run in runs_in(fresh):
        record.store_record(run, {"commit": "a" * 40})
    (line,) = refusals(fresh)
    assert f"not a git checkout with the runs' commit {'a' * 40}; fetch it" in line


def test_the_verb(fresh: Path) -> None:
    command = [sys.executable, "-m", "llama31", "package", "--org", ORG, "--system", fresh / f"{SYSTEM}.json", "-o"]
    done = subprocess.run([*command, fresh / "out", *runs_in(fresh)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"-o {fresh / 'out'}: already exists; name a new directory\n"
    assert departures.departures(SETTINGS) == [], "the runs of these tests are the closed division's"


@pytest.mark.parametrize("commit", ["--output=/x", "HEAD; true", ["a"], 7, "x"])
def test_a_recorded_commit_that_is_none(commit: object, fresh: Path) -> None:
    """It comes from run.json, and must not be an option of git."""
    for run in runs_in(fresh):
        record.store_record(run, {"commit": commit})
    (line,) = refusals(fresh)
    assert line == f"a run recorded the commit {commit!r}, which is none; its run.json is damaged"
