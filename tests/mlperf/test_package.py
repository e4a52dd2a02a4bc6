"""`llama31 package`: the tree of a submission by MLCommons' checkers, and its score by their summarizer."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlperf_logging.result_summarizer import result_summarizer
from packed_runs import IMPLEMENTATION, ORG, RESULTS, SYSTEM, edit_json, pack, runs_in
from submissions import NEWEST, edit, missed, write_run

from dev.support.benchmark_run import SETTINGS
from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.config.resolve import resolve
from llama31.mlperf.package import code, official_checkers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rule_files_are_parsed_once")]


# The tree


def test_logs_are_copied_to_the_byte_in_order_of_their_start(written: Path) -> None:
    results = written / "out" / RESULTS
    assert sorted(file.name for file in results.iterdir()) == [f"result_{number}.txt" for number in range(10)]
    for number in range(10):
        source = written / f"run-{9 - number}" / paths.MLPERF_LOG
        assert (results / f"result_{number}.txt").read_bytes() == source.read_bytes()


def test_the_system_description_is_copied(written: Path) -> None:
    file = written / "out" / ORG / "systems" / f"{SYSTEM}.json"
    assert file.read_bytes() == (written / f"{SYSTEM}.json").read_bytes()


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_the_official_package_checker_accepts_the_tree(written: Path, ruleset: str) -> None:
    checked = official_checkers.run("package_checker", ORG, written / "out", ruleset)
    (written / "out" / RESULTS / "scaling.json").unlink(missing_ok=True)
    assert (checked.accepts, checked.findings) == (True, []), checked


def test_the_score_is_that_of_the_official_summarizer(
    fresh: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, run in enumerate(runs_in(fresh)[:3]):  # now faster than the reference's mean: the score is scaled
        shutil.rmtree(run)
        write_run(run, seed=200 + number, evaluations=14, minutes=27.0)
    assert pack(fresh) == 0
    printed = capsys.readouterr().out
    tree = fresh / "new"
    official_checkers.run("package_checker", ORG, tree, NEWEST)  # leaves the scaling that the summarizer reads
    monkeypatch.chdir(tree)
    score, _, scaling = result_summarizer._compute_strong_score_standalone(
        rules.BENCHMARK, SYSTEM, False, RESULTS, "training", NEWEST
    )
    assert scaling > 1
    assert f"; {score:.3f} with the reference's scaling" in printed, printed


def test_the_code_is_that_of_the_commit(written: Path) -> None:
    implementation = written / "out" / IMPLEMENTATION
    listed = subprocess.run(
        ["git", "-C", paths.REPOSITORY, "ls-tree", "-r", "--name-only", "HEAD"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    packed = {
        str(file.relative_to(implementation / "code")) for file in implementation.glob("code/**/*") if file.is_file()
    }
    assert packed == {name for name in listed if not any(part.startswith(".") for part in name.split("/"))}
    assert os.access(implementation / "code" / "dev" / "setup.sh", os.X_OK) == os.access(
        paths.REPOSITORY / "dev" / "setup.sh", os.X_OK
    )
    readme = (implementation / "README.md").read_text()
    assert "Seeds of the submitted runs, in the order of their logs: 109, 108, 107" in readme
    assert "| torch | 2.13.0 |" in readme


def test_the_scripts_are_clean_and_name_files_that_are_there(written: Path) -> None:
    implementation = written / "out" / IMPLEMENTATION
    scripts = sorted(implementation.glob("*.sh"))
    assert [script.name for script in scripts] == ["init_datasets.sh", "run_and_time.sh", "setup.sh"]
    subprocess.run([Path(sys.executable).with_name("shellcheck"), *scripts], check=True)
    for script in scripts:
        named = [word.strip('"').removeprefix("$here/") for word in script.read_text().split() if "code/" in word]
        assert any((implementation / name).is_file() for name in named), f"{script.name}: {named}"


def test_a_repeated_run_has_the_settings_of_the_submission(tmp_path: Path) -> None:
    """The script, over a launcher that prints its arguments, resolved as the launcher would."""
    settings = replace(SETTINGS, gbs=64, max_lr=1e-3, tensor_parallel_size=2, job_dir="/secret", partition="ours")
    code.write(tmp_path / "it", "x", settings, [1], "HEAD", {})
    (tmp_path / "it" / "code" / "run_llama31.sh").write_text('printf "%s\\n" "$@"\n')
    environment = {"PATH": os.environ["PATH"], "PREPROCESSED_PATH": "d", "TOKENIZER_PATH": "t"}
    command = ["bash", tmp_path / "it" / "run_and_time.sh", "77"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    repeated = resolve(done.stdout.splitlines(), {}).settings
    local = {name: getattr(settings, name) for name in code.LOCAL}
    assert replace(repeated, **local) == settings and repeated.seeds == "77"
    assert "secret" not in done.stdout and "ours" not in done.stdout, "the site's own settings stay there"
    missing = subprocess.run(command[:2], env=environment, capture_output=True, text=True, check=False)
    assert missing.returncode and "the seed of the run" in missing.stderr


# What the checkers must notice


def test_ten_equal_seeds_are_noticed_by_the_official_checker(fresh: Path) -> None:
    for log in (fresh / "out" / RESULTS).iterdir():
        edit(log, "seed", lambda line: line | {"value": 5})
    checked = official_checkers.run("package_checker", ORG, fresh / "out", NEWEST)
    assert not checked.accepts and "the seeds are missing or the same" in checked.findings


@pytest.mark.parametrize(
    ("spoil", "checker", "finding"),
    [
        (
            lambda tree: (tree / RESULTS / "result_3.txt").unlink(),
            "package_checker",
            "found 9 logs; a submission has 10",
        ),
        (
            lambda tree: [edit(tree / RESULTS / f"result_{n}.txt", "opt_name", lambda _: None) for n in (1, 2)],
            "package_checker",
            "2 logs break the compliance rules",
        ),
        (
            lambda tree: [missed(tree / RESULTS / f"result_{n}.txt", seed=n) for n in (1, 2)],
            "package_checker",
            "more than one run missed the target",
        ),
        (
            lambda tree: [
                edit(log, "global_batch_size", lambda line: line | {"value": 128}) for log in (tree / RESULTS).iterdir()
            ],
            "package_checker",
            "converges faster than the reference's minimum",
        ),
        (
            lambda tree: [
                edit(log, "global_batch_size", lambda line: line | {"value": 256}) for log in (tree / RESULTS).iterdir()
            ],
            "package_checker",
            "no verdict on convergence: Missing RCP, please submit RCP with BS = 256",
        ),
        (
            lambda tree: (tree / ORG / "systems" / f"{SYSTEM}.json").unlink(),
            "package_checker",
            "it crashed: FileNotFoundError",
        ),
        (
            lambda tree: edit_json(tree / ORG / "systems" / f"{SYSTEM}.json", cooling=None),
            "system_desc_checker",
            "incomplete system description: ['Missing field cooling']",
        ),
        (
            lambda tree: (tree / RESULTS / "a name.txt").write_text(""),
            "repo_checker",
            f"names with a space or a leading dot: {RESULTS}/a name.txt",
        ),
        (
            lambda tree: os.truncate(tree / RESULTS / "result_0.txt", 60 << 20),
            "repo_checker",
            f"files above 50 MB: {RESULTS}/result_0.txt",
        ),
    ],
    ids=["9 logs", "keys", "missed", "fast", "no point", "no system", "field", "name", "size"],
)
def test_a_spoilt_tree_is_not_accepted(
    fresh: Path, spoil: Callable[[Path], object], checker: str, finding: str
) -> None:
    spoil(fresh / "out")
    path = f"{ORG}/systems/{SYSTEM}.json" if checker == "system_desc_checker" else ORG
    checked = official_checkers.run(checker, path, fresh / "out", NEWEST)
    assert not checked.accepts
    assert any(line.startswith(finding) for line in checked.findings), checked.findings


def test_what_the_checkers_do_not_accept_is_not_published(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A commit with a name that the repository checker refuses, and which our own checks ignore."""
    original = code.write

    def with_a_bad_name(destination: Path, *rest: object) -> None:
        original(destination, *rest)  # type: ignore[arg-type]
        (destination / "a name").touch()

    monkeypatch.setattr(code, "write", with_a_bad_name)
    before = sorted(fresh.iterdir())
    assert pack(fresh) == 1
    assert sorted(fresh.iterdir()) == before, "no tree, whole or half, is left"
    printed = capsys.readouterr().out
    assert "repo_checker: does not accept the tree" in printed
    assert printed.endswith("new: not written: the checkers do not accept it\n")


def test_an_interruption_leaves_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(official_checkers, "check", interrupted)
    before = sorted(fresh.iterdir())
    with pytest.raises(KeyboardInterrupt):
        pack(fresh)
    assert sorted(fresh.iterdir()) == before


def test_what_a_killed_call_left_is_removed(fresh: Path) -> None:
    """In the directory `new.partial`; one with other files is of another user."""
    before = sorted(fresh.iterdir())
    (fresh / "new.partial" / "new" / ORG).mkdir(parents=True)
    (fresh / "new.lock").touch()
    assert pack(fresh) == 0
    assert sorted(fresh.iterdir()) == sorted([*before, fresh / "new"])
    shutil.rmtree(fresh / "new")
    (fresh / "new.partial").mkdir()
    (fresh / "new.partial" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"new\.partial: exists, but not from an interrupted call; remove it"):
        pack(fresh)
    assert (fresh / "new.partial" / "thesis.tex").exists()
