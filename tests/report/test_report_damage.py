"""`llama31 report` on logs that are damaged, mixed with other output or odd: it names what it skips."""

import errno
import gzip
import io
import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pages import array
from report_figures import assert_steps, traces
from report_logs import TOKEN, a_log, page_of

from dev.support.benchmark_run import SETTINGS
from llama31.common.errors import UserError
from llama31.config import paths
from llama31.mlperf.log import reader as module
from llama31.report import command

# --- Damage -------------------------------------------------------------------------------------------------------


def chattered(text: str) -> str:
    """A log mixed with its job's output: ranks' prefixes, progress bars, a launcher's echo."""
    return "".join(
        f"+ echo 'trial {number}'\n0: \rEpoch 0:  17%|##   | 20/122\r7: [NeMo I] iteration {number}\n0: {line}\r\n"
        for number, line in enumerate(text.splitlines())
    )


def on_one_line(text: str) -> str:
    """A log whose lines are joined by progress bars into one of 6 MB."""
    return "".join("\r" + "Epoch 0: 17%\r" * 4000 + line for line in text.splitlines())


@pytest.mark.parametrize(
    "how", [chattered, on_one_line, lambda text: text.replace("\n", "\r\n"), lambda text: text.rstrip("\n")]
)
def test_chatter_changes_nothing(tmp_path: Path, how: Callable[[str], str]) -> None:
    log = a_log(tmp_path / "a.log")
    plain = page_of(tmp_path / "plain.html", log)
    log.write_bytes(how(log.read_text()).encode())
    other = page_of(tmp_path / "other.html", log)
    assert other.tables == plain.tables and other.plots == plain.plots


def test_a_compressed_log(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    compressed = gzip.compress(log.read_bytes())
    plain = page_of(tmp_path / "plain.html", log)
    log.write_bytes(compressed)
    assert page_of(tmp_path / "packed.html", log).tables == plain.tables
    log.write_bytes(compressed[: len(compressed) * 2 // 3])
    page = page_of(tmp_path / "cut.html", log)
    assert "the compressed file is truncated or damaged" in page.words
    assert page.table("Seed", "Validation loss")["a"]["Ended"] == "no end in the log"


DAMAGE = {
    "{not json": "not JSON",
    "": "nothing after the token",
    '{"time_ms": 1, "key": "seed", "value": 7}': "no metadata",
    '{"time_ms": true, "key": "seed", "value": 7, "metadata": {}}': "time_ms is true",
    '{"time_ms": NaN, "key": "seed", "value": 7, "metadata": {}}': "time_ms is NaN",
    '{"time_ms": "x", "key": "seed", "value": 7, "metadata": {}}': "could not convert",
    '{"time_ms": 1, "key": "tracked_stats", "value": 3, "metadata": {}}': "the value of tracked_stats is not an object",
    '{"time_ms": 1, "key": "submission_org", "value": "\\ud800", "metadata": {}}': "codec can't encode character",
    '{"time_ms": 1' + "0" * 400 + ', "key": "seed", "value": 7, "metadata": {}}': "too large",
    "[" * 100_000: "recursion",
}


def test_damaged_lines_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = a_log(tmp_path / "a.log")
    plain = page_of(tmp_path / "plain.html", log)
    lines = log.read_text().splitlines()
    for number, text in enumerate(DAMAGE):
        lines.insert(10 * number + 3, f"0: {TOKEN}{text}")
    log.write_text("\n".join(lines) + "\n")
    capsys.readouterr()
    page = page_of(tmp_path / "other.html", log)
    printed = capsys.readouterr().out
    assert page.tables == plain.tables, "damaged lines are in no figure"
    for where in (page.words, printed):
        assert f"a.log: {len(DAMAGE)} damaged lines" in where
        for number, why in enumerate(DAMAGE.values()):
            assert re.search(rf"line {10 * number + 4}: .*{why}", where), why


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
def test_a_line_that_another_begins_within_is_damage(tmp_path: Path, half: bool) -> None:
    log = a_log(tmp_path / "a.log")
    lines = log.read_text().splitlines(keepends=True)
    plain = page_of(tmp_path / "plain.html", log)
    log.write_text("".join(["0: step 3 " + line[: 60 if half else -1] + line for line in lines]))
    page = page_of(tmp_path / "report.html", log)
    assert page.tables == plain.tables, "the last on a line counts, as for MLCommons' reader"
    assert f"a.log: {len(lines)} damaged lines" in page.words
    assert "line 1: another line begins within it" in page.words and "line 9: another line begins" in page.words


def test_many_damaged_lines_are_not_all_named(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    with log.open("a") as file:
        file.write(f"{TOKEN}damaged\n" * 500)
    page = page_of(tmp_path / "report.html", log)
    assert "a.log: 500 damaged lines" in page.words and "a.log: 480 more" in page.words


@pytest.mark.parametrize("cut", ['"time_ms": 17', ":::MLL", ":::MLLOG ", "eval_accuracy"])
def test_a_log_that_was_cut_off(tmp_path: Path, cut: str) -> None:
    log = a_log(tmp_path / "a.log")
    text = log.read_text()
    end = text.rindex(cut, 0, text.rindex("block_start")) + len(cut)
    log.write_text(text[:end])
    page = page_of(tmp_path / "report.html", log)
    assert f"a.log: 1 damaged line a.log, line {text.count(chr(10), 0, end) + 1}" in re.sub(
        r"\s*a: a", " a", page.words
    )


def test_damaged_metrics(run_directory: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    for name in (paths.MLPERF_LOG, paths.SETTINGS, paths.METRICS):
        (directory / name).write_bytes((run_directory / name).read_bytes())
    (directory / paths.RECORD).write_text('{"half')
    metrics = directory / paths.METRICS
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join([*lines[:100], '{"event": "step"}', '"a"', *lines[100:], lines[-3][:40]]))
    page = page_of(tmp_path / "report.html", directory)
    for said in ("metrics.jsonl: 3 damaged lines", "line 101: no seconds", f"line {len(lines) + 3}: not JSON"):
        assert said in page.words, said
    steps = [event["seconds"] for event in map(json.loads, lines) if event["event"] == "step"]
    assert_steps(page, "run", steps)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gsb: 3", "GSB=3 (stored): no such setting"),
        ("a: [", "settings.yaml: damaged"),
        ("- 1", "settings.yaml: damaged"),
    ],
)
def test_settings_that_cannot_be_read(run_directory: Path, tmp_path: Path, text: str, why: str) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / paths.MLPERF_LOG).write_bytes((run_directory / paths.MLPERF_LOG).read_bytes())
    (directory / paths.SETTINGS).write_text(text)
    page = page_of(tmp_path / "report.html", directory)
    assert why in page.words
    assert page.table("Seed", "Validation loss")["run"]["Seed"] == "1234", "the log is read all the same"


@pytest.mark.parametrize("name", [paths.SETTINGS, paths.RECORD])
def test_a_file_server_that_fails_keeps_the_earlier_report(
    run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The next report may have what cannot be read now."""
    (run_directory / paths.RECORD).write_text("{}")
    page = tmp_path / "report.html"
    page.write_text("earlier")
    stock = Path.read_bytes

    def read(file: Path) -> bytes:
        if file.name == name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stock(file)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(UserError, match=f"{name}: Stale file handle"):
        command.report([run_directory], page, None, "")
    assert page.read_text() == "earlier"


def test_bytes_of_all_kinds(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    plain = page_of(tmp_path / "plain.html", log)
    noise = random.Random(1).randbytes(3_000_000)
    log.write_bytes(noise + b"\n" + log.read_bytes() + bytes(3_000_000))
    assert page_of(tmp_path / "other.html", log).tables == plain.tables


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_line_anywhere_in_the_blocks_of_reading(blocks: int) -> None:
    line = f'{TOKEN}{{"time_ms": 5, "key": "seed", "value": 7, "metadata": {{}}}}'.encode()
    for behind in range(-len(line) - 2, 2):
        data = b"x" * (blocks * module.BLOCK + behind) + line + b"\n" + line
        found = list(module.scan(io.BytesIO(data)))
        assert [(one.number, getattr(one, "value", one)) for one in found] == [(1, 7), (2, 7)], behind


def test_an_evaluation_without_a_number_is_named(tmp_path: Path) -> None:
    """A loss that is no number, or after no one knows how many samples: the page says what it left out."""
    log = a_log(tmp_path / "a.log", validation_losses=[4.0, 3.9, 3.8, 3.25])
    lines = log.read_text().splitlines()
    first, second, *_ = [number for number, line in enumerate(lines) if '"eval_accuracy"' in line]
    lines[first] = lines[first].replace('"value": 4.0', '"value": NaN')
    lines[second] = lines[second].replace('"samples_count": 24576', '"samples_count": "many"')
    log.write_text("\n".join(lines) + "\n")
    page = page_of(tmp_path / "report.html", log)
    for number, said in ((first, "NaN at samples_count 12288"), (second, '3.9 at samples_count "many"')):
        assert f"a: eval_accuracy in line {number + 1}: {said}; not used" in page.words
    (drawn,) = traces(page, "Validation loss")
    assert list(array(drawn["x"])) == [36_864, 49_152]
    assert "not used" not in page_of(tmp_path / "whole.html", a_log(tmp_path / "whole.log")).words


def test_a_success_that_no_evaluation_confirms_is_named(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log", validation_losses=[3.5, 3.4])
    page = page_of(tmp_path / "report.html", log)
    assert page.table("Seed", "Validation loss")["a"]["Ended"] == "success"
    assert "a: says success, but no evaluation reached 3.3" in page.words
    assert "says success" not in page_of(tmp_path / "whole.html", a_log(tmp_path / "whole.log")).words


def test_a_line_without_an_end_between_others() -> None:
    """What is longer than a block is cut where a line begins, and still known to have none of its own."""
    line = f'{TOKEN}{{"time_ms": 5, "key": "seed", "value": 7, "metadata": {{}}}}'.encode()
    found = list(module.scan(io.BytesIO(line + b"x" * 3000 + line * 100_000)))
    assert len(found) == 100_001
    assert {str(one) for one in found[:-1]} == {"line 1: another line begins within it"}
    assert getattr(found[-1], "value", None) == 7


def test_a_run_that_ends_before_it_starts_has_no_time(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    *lines, last = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines, re.sub(r'"time_ms": \d+', '"time_ms": 5', last)]))
    page = page_of(tmp_path / "report.html", log)
    assert "the log has its run_stop before its run_start; no time to train" in page.words
    assert page.table("Seed", "Validation loss")["a"]["Time to train"] == "not in the log"


def test_a_log_of_two_runs_says_so(tmp_path: Path) -> None:
    log = a_log(tmp_path / "a.log")
    log.write_text(log.read_text() * 2)
    page = page_of(tmp_path / "report.html", log)
    assert "2 run_start lines; no time to train" in page.words
    assert page.table("Seed", "Validation loss")["a"]["Time to train"] == "not in the log"


ODD = ["x", None, True, -1, 1e400, 10**400, [], {}, "9" * 400, 0]


def test_values_of_the_wrong_kind_end_nothing(tmp_path: Path) -> None:
    """Every field of every kind of line, with values that no log should have."""
    log = a_log(tmp_path / "a.log")
    lines = [json.loads(line.partition(TOKEN)[2]) for line in log.read_text().splitlines()]
    chance = random.Random(3)
    found = []
    for number, odd in enumerate(ODD * 4):
        spoilt = [dict(line) for line in lines]
        for line in chance.sample(spoilt, 25):
            line["value"] = odd
            line["metadata"] = dict.fromkeys(("samples_count", "step", "status", "departures", "reason"), odd)
        for line in chance.sample(spoilt, 3):
            line["time_ms"] = odd if isinstance(odd, int | float) and odd < 10**400 else 5
        path = tmp_path / f"{number}.log"
        path.write_text("".join(f"{TOKEN}{json.dumps(line)}\n" for line in spoilt))
        found.append(path)
    page = page_of(tmp_path / "report.html", *found)
    assert len(page.table("Seed", "Validation loss")) == len(found)
    for titles in (("Time to train", "Ended"), ("Initialisation before",), ("Median", "99%"), ("Peak, dense bf16",)):
        for row in page.table(*titles).values():
            figures = {title: cell for title, cell in row.items() if title not in ("Run", "Seed", "Ended", "System")}
            assert not re.search("nan|inf|None", " ".join(figures.values())), figures


def test_names_cannot_end_the_script(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script>"
    log = a_log(tmp_path / "a.log", settings=replace(SETTINGS, submission_org=nasty))
    page_of(tmp_path / "report.html", log)
    assert nasty not in (tmp_path / "report.html").read_text()
