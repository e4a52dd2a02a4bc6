"""`llama31 package`: the tree of a submission, held against MLCommons' checkers, and its score against theirs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_run import SETTINGS
from mlperf_logging.result_summarizer import result_summarizer
from submissions import edit, fields, missed, rule_files_parsed_once, ten_runs, write_run

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import departures, paths
from llama31.config.resolve import resolve
from llama31.mlperf.package import code, official_checkers, package, system_description
from llama31.run_dir import record
from llama31.settings import Division

ORG, SYSTEM = "Example", "8xH200"
NEWEST = rules.RULESETS[-1]
RESULTS = f"{ORG}/results/{SYSTEM}/{rules.BENCHMARK}"
IMPLEMENTATION = f"{ORG}/benchmarks/{rules.BENCHMARK}/implementations/{SYSTEM}"


@pytest.fixture(autouse=True, scope="module")
def _rule_files_are_parsed_once() -> Iterator[None]:
    with rule_files_parsed_once():
        yield


def describe(directory: Path, **changes: str) -> Path:
    """A system description that is filled in."""
    content = dict.fromkeys(system_description.FIELDS, "something") | dict.fromkeys(system_description.COUNTS, "1")
    content |= {"submitter": ORG, "division": "closed", "status": "Available on-premise", **changes}
    file = directory / f"{SYSTEM}.json"
    file.write_text(json.dumps(content))
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten runs and the tree made from them, once; `fresh` gives copies to spoil."""
    directory = tmp_path_factory.mktemp("a $HOME [of] runs")
    runs = ten_runs(directory)
    begin = fields(runs[0] / paths.MLPERF_LOG, "run_start")["time_ms"]
    for number, run in enumerate(runs):  # run 9 began first, and so on
        log = run / paths.MLPERF_LOG
        offset = begin - fields(log, "run_start")["time_ms"] - number * 10_000_000
        log.write_text("".join(_later(line, offset) for line in log.read_text().splitlines(keepends=True)))
    assert package.package(ORG, describe(directory), runs, directory / "out", NEWEST) == 0
    return directory


def _later(line: str, milliseconds: float) -> str:
    prefix, token, text = line.partition(":::MLLOG ")
    said = json.loads(text)
    return f"{prefix}{token}{json.dumps(said | {'time_ms': said['time_ms'] + milliseconds})}\n"


@pytest.fixture
def fresh(written: Path, tmp_path: Path) -> Path:
    """A copy of runs, system description and tree."""
    return shutil.copytree(written, tmp_path / "copy")


def runs_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("run-*"))


def pack(directory: Path, **changes: object) -> int:
    """Packs the runs of a directory into a new tree."""
    given = {
        "org": ORG, "system_file": directory / f"{SYSTEM}.json", "run_dirs": runs_in(directory),
        "output": directory / "new", "ruleset": NEWEST,
    }  # fmt: skip
    return package.package(**{**given, **changes})  # type: ignore[arg-type]


def refusals(directory: Path, **changes: object) -> list[str]:
    """What keeps the runs of a directory from being packed; nothing may have been written."""
    before = sorted(directory.rglob("*"))
    with pytest.raises(UserError) as error:
        pack(directory, **changes)
    assert sorted(directory.rglob("*")) == before, "refuse before anything is written"
    return error.value.lines


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
            "there are 9 logs, and a submission has 10",
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
            "it broke off: FileNotFoundError",
        ),
        (
            lambda tree: edit_json(tree / ORG / "systems" / f"{SYSTEM}.json", cooling=None),
            "system_desc_checker",
            "the system description lacks something: ['Missing field cooling']",
        ),
        (
            lambda tree: (tree / RESULTS / "a name.txt").write_text(""),
            "repo_checker",
            f"names with a space, or a dot in front: {RESULTS}/a name.txt",
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


def edit_json(file: Path, **changes: str | None) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_what_the_checkers_do_not_accept_is_not_published(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A commit with a name that the repository checker refuses, which our own checks do not look at."""
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
    assert printed.endswith("new: not written, for the checkers do not accept it\n")


def test_an_interruption_leaves_nothing(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(official_checkers, "check", interrupted)
    before = sorted(fresh.iterdir())
    with pytest.raises(KeyboardInterrupt):
        pack(fresh)
    assert sorted(fresh.iterdir()) == before


# What is refused


def test_what_exists_is_not_touched(fresh: Path) -> None:
    assert refusals(fresh, output=fresh / "out") == [
        f"-o {fresh / 'out'}: exists, and is not touched; name a directory that does not"
    ]


def test_the_number_of_runs(fresh: Path) -> None:
    assert refusals(fresh, run_dirs=runs_in(fresh)[:9]) == ["9 runs: a submission has 10"]


def test_a_run_given_twice(fresh: Path) -> None:
    runs = runs_in(fresh)
    assert refusals(fresh, run_dirs=[*runs[:9], runs[0]]) == [f"{runs[0]}: given more than once"]


def test_a_log_alone_is_no_run(fresh: Path) -> None:
    runs = runs_in(fresh)
    (line,) = refusals(fresh, run_dirs=[*runs[:9], runs[9] / paths.MLPERF_LOG])
    assert "no run directory, which has settings.yaml, run.json and mlperf.log" in line


@pytest.mark.parametrize("org", ["", "two words", "../up", ".hidden"])
def test_an_organisation_that_names_no_directory(fresh: Path, org: str) -> None:
    assert refusals(fresh, org=org)[0].startswith(f"--org {org}: names a directory")


def test_a_description_with_blanks(fresh: Path) -> None:
    edit_json(fresh / f"{SYSTEM}.json", cooling=f"{system_description.BLANK}air or liquid")
    assert refusals(fresh) == [f"{fresh / SYSTEM}.json: cooling is not filled in; air or liquid"]


def test_a_system_of_another_size(fresh: Path) -> None:
    edit_json(fresh / f"{SYSTEM}.json", accelerators_per_node="8")
    lines = refusals(fresh)
    assert len(lines) == 10
    assert lines[0].endswith("run-0: ran on 1 x 1 accelerators; the system description has 1 x 8")


def renamed(directory: Path, **values: str) -> None:
    """Changes what the ten logs say under these keys."""
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
    assert "note: " not in re.sub("note: the runs do not say.*", "", capsys.readouterr().out)


def test_an_organisation_may_have_another_directory(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed(fresh, submission_org="International Machines")
    edit_json(fresh / f"{SYSTEM}.json", submitter="International Machines")
    assert pack(fresh, org="IM") == 0
    printed = capsys.readouterr().out
    assert "note: submission_org is International Machines in the logs, which are packed below IM\n" in printed
    edit_json(fresh / f"{SYSTEM}.json", submitter="Else")
    shutil.rmtree(fresh / "new")
    (line,) = refusals(fresh, org="IM")
    assert line.endswith("submitter is Else; here IM or International Machines")


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
    """One of ten may be wrong, as MLCommons has it, but for what only we look at; two may not."""
    first, second = (fresh / f"run-{number}" / paths.MLPERF_LOG for number in (3, 4))
    edit(first, "opt_name", lambda line: line | {"value": "adam"})
    edit(second, "init_checkpoint_step", lambda line: line | {"value": 5})
    assert any(line.startswith(f"run-4/{second.name}: init_checkpoint_step: found 5") for line in refusals(fresh))
    edit(second, "opt_name", lambda line: line | {"value": "muon"})
    assert any(line.startswith("opt_name: found") for line in refusals(fresh))


def test_equal_seeds(fresh: Path) -> None:
    edit(fresh / "run-3" / paths.MLPERF_LOG, "seed", lambda line: line | {"value": 100})
    (line,) = refusals(fresh)
    assert line.startswith("seed: found 100 in ") and line.endswith("wants another seed in each log")


def test_two_runs_that_missed_the_target(fresh: Path) -> None:
    for number in (1, 2):
        missed(fresh / f"run-{number}" / paths.MLPERF_LOG, seed=100 + number)
    assert refusals(fresh)[0].startswith("2 runs missed the target, and one may: ")


def test_one_run_that_missed_the_target_is_packed(fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missed(fresh / "run-1" / paths.MLPERF_LOG, seed=101)
    for run in runs_in(fresh):
        changes = run.name == "run-2"
        record.store_record(run, {"commit": code.commit_of([None]), "uncommitted_changes": changes, "python": "3.12"})
    assert pack(fresh) == 0
    printed = capsys.readouterr().out
    assert "rcp: accepted" in printed
    assert f"note: run-1/{paths.MLPERF_LOG}: missed the target; one run of a submission may" in printed
    assert f"note: {fresh / 'run-2'}: ran with uncommitted changes, which the packed commit does not have" in printed


def test_runs_that_converge_too_fast(tmp_path: Path) -> None:
    ten_runs(tmp_path, evaluations=[13] * 10)
    describe(tmp_path)
    (line,) = refusals(tmp_path)
    assert line.startswith("convergence: rejected: converges faster than the reference's minimum: 159,744 samples")


def test_runs_of_the_open_division(tmp_path: Path) -> None:
    ten_runs(tmp_path, replace(SETTINGS, submission_division=Division.open))
    describe(tmp_path)
    lines = refusals(tmp_path)
    assert len(lines) == 10 and lines[0].endswith(
        "a log of the open division; package makes submissions of the closed one"
    )


def test_runs_of_different_code(fresh: Path) -> None:
    for run, commit in zip(runs_in(fresh), ["a" * 40, *["b" * 40] * 9], strict=True):
        record.store_record(run, {"commit": commit})
    assert refusals(fresh) == [f"the runs ran different code: commits {'a' * 40}, {'b' * 40}"]


def test_runs_of_code_that_is_not_here(fresh: Path) -> None:
    for run in runs_in(fresh):
        record.store_record(run, {"commit": "a" * 40})
    (line,) = refusals(fresh)
    assert f"no git checkout that has the runs' commit {'a' * 40}; fetch it" in line


def test_the_verb(fresh: Path) -> None:
    command = [sys.executable, "-m", "llama31", "package", "--org", ORG, "--system", fresh / f"{SYSTEM}.json", "-o"]
    done = subprocess.run([*command, fresh / "out", *runs_in(fresh)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"-o {fresh / 'out'}: exists, and is not touched; name a directory that does not\n"
    assert departures.departures(SETTINGS) == [], "the runs of these tests are the closed division's"
