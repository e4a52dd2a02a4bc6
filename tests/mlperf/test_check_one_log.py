"""`llama31 check`: MLCommons' verdict on a closed log, and faults in the order of its events."""

import itertools
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edited_logs import assert_named, changed, edited, fields, index, key, lines_of, verdict
from mlperf_logging.compliance_checker import mlp_compliance
from submissions import NEWEST

from dev.support.benchmark_run import SETTINGS, losses, write_log
from llama31 import rules
from llama31.mlperf.check import one_log as module
from llama31.mlperf.check import submission
from llama31.mlperf.check.one_log import check
from llama31.run_dir.events import Outcome

pytestmark = pytest.mark.usefixtures("rule_files_are_parsed_once")

# A log as it should be


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_a_full_size_run_holds(tmp_path: Path, lines: list[str], ruleset: str) -> None:
    report = verdict(tmp_path, lines, ruleset)
    assert (report.failures, report.departures, report.notes) == ([], [], []), "nothing is wrong with this log"
    assert report.is_closed and report.is_accepted and report.passes


def test_the_report_reads_as_words(tmp_path: Path) -> None:
    log = write_log(tmp_path / "mlperf.log")
    text = "\n".join(module.lines(check(tmp_path, NEWEST))).splitlines()
    assert text[0] == f"log:       {log}"
    assert text[1:4] == [
        "benchmark: llama31_8b, closed division",
        "system:    8xH200, Example",
        "run:       global batch size 32, seed 1234",
    ], "say what the log is of"
    assert "length:    5,376 steps, 172,032 training sequences" in text
    assert "loss:      3.2900 at the last evaluation, target 3.3" in text
    assert "passes: no evaluation was skipped, and sample counts are exact" in text
    assert text[-1] == "verdict: passes; the official checker accepts the log in the closed division, ruleset 6.1.0"


def test_exit_codes_and_output(tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "mlperf.log"
    log.write_text("".join(lines))
    assert submission.check([tmp_path], NEWEST) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: passes"), "the verdict is the last line"
    log.write_text("".join(line for line in lines if key(line) != "seed"))
    assert submission.check([log], NEWEST) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "fails: seed: found none; wants exactly one line" in printed
    assert printed[-1] == "verdict: fails for 1 reason; the official checker accepts the log"


def test_chatter_of_ranks_is_passed_over(tmp_path: Path, lines: list[str]) -> None:
    chatter = ["[NeMo I] \xe9\xff training ...\n", "\n", ":::DLPAL x\n", " 0: step 3\r 0: step 4\n"]
    noisy = [part for line in lines for part in (*chatter, " 0: " + line)]
    assert verdict(tmp_path, noisy).passes, "only what follows :::MLLOG counts"


def test_checking_leaves_logging_and_the_checker_as_they_were(tmp_path: Path, lines: list[str]) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        verdict_without_oracle = check(write_log(tmp_path / "log"), NEWEST)
        assert root.handlers == [], "the root logger stays unchanged"
    finally:
        root.handlers = handlers
    assert verdict_without_oracle.passes
    assert mlp_compliance.enqueued_configs == [], "the checker's global list would leak into the next check"


# The course of a run


@pytest.mark.parametrize("name", ["run_start", "run_stop"])
def test_a_run_has_one_start_and_one_end(tmp_path: Path, lines: list[str], name: str) -> None:
    """The official checker takes several that say the same, but the time to train needs one."""
    report = verdict(tmp_path, edited(lines, name, lambda line: line * 2))
    assert_named(report, f"{name}: found 2 lines; wants exactly one line")


@pytest.mark.parametrize(
    ("name", "time_ms"),
    [
        *itertools.product(["run_start", "eval_start"], [math.nan, math.inf, True, "never"]),
        *itertools.product(["block_stop", "run_stop"], [-math.inf, False, "nan", None]),
    ],
)
def test_a_time_that_is_none_is_damage(tmp_path: Path, lines: list[str], name: str, time_ms: Any) -> None:
    report = verdict(tmp_path, edited(lines, name, lambda line: changed(line, time_ms=time_ms)))
    assert_named(report, "unreadable, line")
    assert report.is_accepted is None, "what the official checker makes of damage is not for us to say"


@pytest.mark.parametrize("name", ["eval_start", "block_stop", "run_stop"])
def test_time_does_not_go_back(tmp_path: Path, lines: list[str], name: str) -> None:
    """A run that ends before it starts would have the best score of all."""
    report = verdict(tmp_path, edited(lines, name, lambda line: changed(line, time_ms=-5)))
    assert_named(report, "wants times that do not decrease")
    assert ("time" in report.facts) == (name != "run_stop"), "no time is better than one below 0"
    assert (report.notes == ["run_stop: is before run_start; no time to train"]) == (name == "run_stop")


def test_counts_that_fall_are_no_cadence(tmp_path: Path, lines: list[str]) -> None:
    place = index(lines, "eval_start", 3)
    lines[place] = changed(lines[place], metadata={"samples_count": 12288})
    notes = " ".join(verdict(tmp_path, lines).notes)
    assert "evaluations every" not in notes, notes


def swapped(lines: list[str], one: str, other: str) -> list[str]:
    first, second = index(lines, one), index(lines, other)
    lines[first], lines[second] = lines[second], lines[first]
    return lines


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ("init_start", "init_stop", "init_stop: found null in line 2; wants to be after init_start"),
        ("init_stop", "run_start", "run_start"),
        ("run_start", "block_start", "block_start"),
        ("block_start", "block_stop", "block_stop: found one in line"),
        ("eval_start", "eval_stop", "eval_stop: found one in line"),
        ("eval_stop", "run_stop", "to be between run_start and run_stop"),
    ],
)
def test_events_out_of_order_are_named(tmp_path: Path, lines: list[str], one: str, other: str, named: str) -> None:
    assert_named(verdict(tmp_path, swapped(lines, one, other)), named)


def test_an_initialisation_that_took_too_long_is_named(tmp_path: Path, lines: list[str]) -> None:
    late = fields(lines[0])["time_ms"] + 31 * 60 * 1000
    spoilt = edited(lines, "init_stop", lambda line: changed(line, time_ms=late))
    assert_named(verdict(tmp_path, spoilt), "init_stop", "within 30 minutes of init_start")


@pytest.mark.parametrize("evaluation", [0, 6, 13])
def test_a_skipped_evaluation_is_named(tmp_path: Path, lines: list[str], evaluation: int) -> None:
    start = index(lines, "tracked_stats", evaluation)
    stop = index(lines, "eval_stop", evaluation)  # the block continues: its stop and the next start are missing
    spoilt = lines[:start] + lines[stop + 2 if evaluation < 13 else stop + 1 :]
    report = verdict(tmp_path, spoilt)
    if evaluation < 13:
        between = f"none between {evaluation * 12288:,} and {(evaluation + 2) * 12288:,} training sequences"
        assert_named(report, f"eval_start: found {between}; wants an evaluation every 12,288")
        assert report.is_accepted, "the official checker does not look at the cadence"
    else:
        assert_named(report, "run_stop: found samples_count 172032; wants 159744", "eval_accuracy")


def test_several_gaps_are_one_finding(tmp_path: Path) -> None:
    sparse = replace(SETTINGS, eval_every=2 * rules.EVAL_EVERY)
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", sparse)))
    gaps = "none between 0 and 24,576 training sequences, nor in 13 more places"
    assert [str(finding) for finding in report.failures] == [
        f"eval_start: found {gaps}; wants an evaluation every 12,288"
    ], "a closed log's cadence is the benchmark's, regardless of its metadata"


def test_a_denser_cadence_is_a_note(tmp_path: Path) -> None:
    dense = replace(SETTINGS, eval_every=8192)
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", dense)))
    assert report.passes, "MLCommons accepted such logs in v5.1"
    assert report.notes == ["eval_start: evaluations every 8,192 training sequences; the rule is 12,288"]


@pytest.mark.parametrize("batch", [16, 64, 96, 128])
def test_the_cadence_is_rounded_up_to_whole_steps(tmp_path: Path, batch: int) -> None:
    settings = replace(SETTINGS, gbs=batch)
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", settings)))
    assert report.passes and not report.notes, "CEIL(12,288 / GBS) x GBS sequences"


@pytest.mark.parametrize("name", ["eval_start", "eval_accuracy"])
@pytest.mark.parametrize("samples", [None, "12288", 12289, 0, -32])
def test_a_wrong_sample_count_is_named(tmp_path: Path, lines: list[str], name: str, samples: Any) -> None:
    place = index(lines, name)
    lines[place] = changed(lines[place], metadata={"samples_count": samples})
    assert_named(verdict(tmp_path, lines), name, "samples_count")


def test_a_sample_count_that_falls_is_named(tmp_path: Path, lines: list[str]) -> None:
    place = index(lines, "eval_start", 3)
    lines[place] = changed(lines[place], metadata={"samples_count": 12288})
    assert_named(verdict(tmp_path, lines), "eval_start: found a samples_count that does not increase")


def test_a_lost_result_is_one_reason(tmp_path: Path, lines: list[str]) -> None:
    del lines[index(lines, "eval_accuracy", 3)]
    report = verdict(tmp_path, lines)
    assert list(map(str, report.failures)) == [
        "eval_accuracy: found 13 lines for 14 evaluations; wants one for each"
    ], "each result is compared with its own evaluation"
    assert not report.notes


def test_a_count_that_differs_at_each_evaluation_is_one_reason(tmp_path: Path, lines: list[str]) -> None:
    def late(line: str) -> str:
        return changed(line, metadata={"samples_count": fields(line)["metadata"]["samples_count"] + 64})

    report = verdict(tmp_path, edited(lines, "eval_accuracy", late))
    assert len(report.failures) == 1
    assert_named(
        report, "found samples_count 12352 in line", ", and 13 more that differ; wants 12288, as in eval_start"
    )


def test_a_result_of_another_evaluation_is_named(tmp_path: Path, lines: list[str]) -> None:
    place = index(lines, "eval_accuracy")
    lines[place] = changed(lines[place], metadata={"samples_count": 24576})
    assert_named(verdict(tmp_path, lines), "eval_accuracy: found samples_count 24576")


def test_a_run_that_continued_past_its_target_is_named(tmp_path: Path) -> None:
    found = [*losses()[:-2], 3.25, 3.2]
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", validation_losses=found)))
    assert_named(
        report, "eval_accuracy: found 3.25 in line", "followed by more evaluations; wants the run to stop at 3.3"
    )


def test_a_last_loss_above_the_target_is_named(tmp_path: Path) -> None:
    found = [*losses()[:-2], 3.29, 3.31]
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", validation_losses=found)))
    assert_named(report, "eval_accuracy: found 3.31 at the last evaluation; wants 3.3 or less")
    assert report.is_accepted, "one loss at the target is enough for the official checker"


def test_a_run_without_its_target_is_one_line(tmp_path: Path) -> None:
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", validation_losses=losses()[:-1])))
    assert [str(finding) for finding in report.failures] == [
        "eval_accuracy: found 3.39 at the last evaluation; wants 3.3 or less"
    ], "the official checker's finding is the same and not repeated"


@pytest.mark.parametrize(
    ("validation_losses", "reason"),
    [
        ([4.0, 3.5], "interrupted"),
        ([float("nan")], "the validation loss is nan at step 384"),
        ([], "the training loss is nan at step 3"),
        (losses(), "the target was reached and the run failed all the same"),
    ],
)
def test_an_aborted_run_is_named_with_its_reason(tmp_path: Path, validation_losses: list[float], reason: str) -> None:
    samples = len(validation_losses) * 12288
    outcome = Outcome("aborted", reason, 3, samples // 32, samples)
    log = write_log(tmp_path / "log", validation_losses=validation_losses, outcome=outcome)
    report = verdict(tmp_path, lines_of(log))
    assert_named(report, f"run_stop: found status aborted ({reason}); wants status success")


def test_a_run_that_was_killed_is_named(tmp_path: Path, lines: list[str]) -> None:
    report = verdict(tmp_path, lines[: index(lines, "eval_start", 5)])
    assert_named(report, "run_stop: found none: the run was killed or is still running; wants exactly one line")
