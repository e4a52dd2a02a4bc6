"""`llama31 report` as a command: user errors, memory, where the page is written and which logs are read."""

import os
import re
import sys
from pathlib import Path

import pytest
from light_imports import imported_by, is_light
from pages import Page
from report_logs import TOKEN, a_log, a_run_directory
from runs import REPOSITORY, call

from dev.bench import read_logs
from llama31 import rules
from llama31.cli import main as cli
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.report import command, find_logs
from llama31.run_dir import record
from llama31.status import status

# --- Speed and memory ---------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_chatter(tmp_path: Path) -> None:
    """The whole gigabyte: python3 -m dev.bench.read_logs."""
    small, large = (read_logs.make(tmp_path / f"{size}.log", size) for size in (2, 40))
    _, little, _ = read_logs.measured(read_logs.OURS, small)
    seconds, much, found = read_logs.measured(read_logs.OURS, large)
    steps = len(re.findall(rb'"train_step_time"', large.read_bytes()))
    assert found == 2 * steps, "each step has a time and a loss"
    assert much - little < 15, f"{little:.0f} MiB for 2 MB, {much:.0f} MiB for 40 MB"
    assert seconds < 5


# --- What a user types --------------------------------------------------------------------------------------------


def test_mistakes_are_one_line(
    tmp_path: Path, ten_logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, words, fifo = tmp_path / "empty.log", tmp_path / "words.log", tmp_path / "pipe"
    empty.touch()
    words.write_text("no log\n")
    os.mkfifo(fifo)
    log = ten_logs / "result_0.txt"
    for given, named in (
        ([tmp_path / "none.log"], "none.log: no such file"),
        ([empty], "empty.log: has no :::MLLOG line"),
        ([log, words], "words.log: has no :::MLLOG line"),
        ([tmp_path], "has no mlperf.log and no result_*.txt"),
        ([fifo], "pipe: not a regular file; give"),
        ([log, "--gpu", "H20"], "--gpu H20: not one of"),
        ([log, "--devices", "0"], "--devices"),
        ([log, "-o", tmp_path], "is a directory"),
        ([log, "-o", log], "is one of the logs to read"),
        ([log, "-o", fifo], "pipe: not a regular file"),
        ([words, "-o", log / "none" / "report.html"], "result_0.txt is not a writable directory"),
        ([], "Missing argument 'runs'"),
    ):
        monkeypatch.setattr(sys, "argv", ["llama31", "report", *map(str, given)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 2 and named in said and said.count("\n") == 1, said
    assert log.read_text().startswith(TOKEN)


@pytest.mark.parametrize("verb", ["report", "check"])
def test_nothing_heavy_for_a_mistake(verb: str) -> None:
    modules, code, said = imported_by(verb, "/nonexistent")
    assert (code, said.count("\n")) == (2, 1) and not {"plotly", "scipy"} & modules and is_light(modules)


def test_a_path_that_cannot_be_examined_is_a_user_error() -> None:
    """Replaces a path below another user's directory, which root, who may run this test, could read."""
    path = Path("a" * 300)
    for look in (paths.latest_run, lambda path: find_logs.find([path]), status.run_dirs_of):
        with pytest.raises(UserError, match=r"^a{300}: File name too long$"):
            look(path)


@pytest.mark.slow
def test_where_the_page_goes(ten_logs: Path, tmp_path: Path) -> None:
    done = call(
        sys.executable, "-m", "llama31", "report", ten_logs / "result_0.txt", cwd=tmp_path, PYTHONPATH=str(REPOSITORY)
    )
    assert (done.returncode, done.stdout) == (0, "report: report.html\n"), done.stderr
    assert Page(tmp_path / "report.html").table("Seed", "Validation loss")["result_0"]["Seed"] == "1000"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"], "nothing else is left"


def test_a_link_to_a_page_stays_one(ten_logs: Path, tmp_path: Path) -> None:
    link, page = tmp_path / "link.html", tmp_path / "page.html"
    link.symlink_to(page)
    command.report([ten_logs / "result_0.txt"], link, None, "")
    assert link.is_symlink() and page.is_file()


def test_which_logs(tmp_path: Path, ten_logs: Path) -> None:
    job = tmp_path / "submission" / "job-7"
    job.mkdir(parents=True)
    a_log(job / paths.MLPERF_LOG)
    (job.parent / paths.LATEST).symlink_to("job-7")
    assert [log.resolve() for log in find_logs.find([tmp_path / "submission"])] == [job / paths.MLPERF_LOG]
    both = find_logs.find([tmp_path / "submission", job, job / paths.MLPERF_LOG])
    assert len(both) == 1, "a run that is given twice counts once"
    found = find_logs.find([ten_logs])
    assert [log.name for log in found] == [f"result_{number}.txt" for number in range(10)]
    (ten_logs / "result_10.txt").symlink_to(ten_logs / "result_0.txt")
    assert len(find_logs.find([ten_logs])) == 10
    (ten_logs / "result_10.txt").unlink()
    assert len(set(find_logs.names([*found, job / paths.MLPERF_LOG]))) == 11


def test_rules_of_the_score_are_the_benchmarks() -> None:
    assert rules.RUNS_PER_SUBMISSION == 10
    with pytest.raises(UserError):
        find_logs.find([Path("/nonexistent")])


def test_a_log_that_links_to_itself(tmp_path: Path) -> None:
    (tmp_path / "result_0.txt").symlink_to("result_0.txt")
    with pytest.raises(UserError, match=r"result_0.txt: Too many levels of symbolic links$"):
        command.report([tmp_path], tmp_path / "page.html", None, "")


def test_a_record_with_half_a_surrogate_pair(tmp_path: Path) -> None:
    run = a_run_directory(tmp_path / "run")
    record.store_record(run, {"versions": {"torch": "2.13\ud800"}, "commit": "0123abc", "host": "node7"})
    command.report([run], tmp_path / "page.html", None, "")
    assert "2.13?" in (tmp_path / "page.html").read_text(encoding="utf-8")
