"""`llama31 check` on logs of runs outside the closed division's rules: their departures are listed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edited_logs import (
    KEYS,
    NEWEST,
    NOT_CHECKED,
    OPTIONAL,
    assert_named,
    changed,
    edited,
    index,
    key,
    lines_of,
    verdict,
)

from dev.support.benchmark_run import SETTINGS, write_log
from llama31 import rules
from llama31.config.departures import departures as departures_of
from llama31.mlperf.check import one_log as module
from llama31.mlperf.check.one_log import check
from llama31.run_dir.events import Outcome
from llama31.settings import Division, Settings

pytestmark = pytest.mark.usefixtures("rule_files_are_parsed_once")

# Outside the closed division

SMALL = replace(
    SETTINGS, size="demo", seq_length=512, gbs=8, max_steps=3000, warmup_steps=20, max_lr=1e-3, min_lr=1e-5,
    eval_every=640, eval_samples=96, start_eval_at=1280, target=4.5, n_validation_samples=100, train_parts="0",
)  # fmt: skip


def small_log(tmp_path: Path, settings: Settings = SMALL, **more: Any) -> Path:
    return write_log(tmp_path / "mlperf.log", settings, departures=departures_of(settings), **more)


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_a_run_outside_the_rules_lists_its_departures_and_holds(tmp_path: Path, ruleset: str) -> None:
    report = check(small_log(tmp_path), ruleset)
    assert (report.failures, report.passes, report.is_closed) == ([], True, False)
    assert report.departures == departures_of(SMALL), "list the declared departures and no other"
    printed = list(module.lines(report))
    assert "departs from the closed division: SEQ_LENGTH=512: the closed division has 8192" in printed
    assert printed[-1] == "verdict: passes outside the closed division, with no departures but those above"


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("seq_length", 512, "max_sequence_length"),
        ("eval_samples", 96, "eval_samples"),
        ("max_steps", 3000, "max_steps"),
        ("max_steps", 3000, "opt_learning_rate_decay_steps"),
        ("min_lr", 1e-5, "opt_end_learning_rate"),
        ("target", 4.5, "target_accuracy"),
        ("target", 4.5, "eval_accuracy"),
    ],
)
def test_a_departure_must_be_declared(tmp_path: Path, setting: str, value: Any, named: str) -> None:
    settings = replace(SETTINGS, start_eval_at=0, size="demo", **{setting: value})
    declared = [text for text in departures_of(settings) if not text.startswith(setting.upper())]
    log = write_log(tmp_path / "log", settings, departures=declared)
    assert_named(check(log, NEWEST), named)


def test_one_departure_does_not_excuse_another(tmp_path: Path) -> None:
    lines = lines_of(small_log(tmp_path))
    spoilt = edited(lines, "opt_name", lambda line: changed(line, value="adam"))
    assert_named(verdict(tmp_path, spoilt), 'opt_name: found "adam"')


@pytest.mark.parametrize("name", [name for name in KEYS if name not in NOT_CHECKED | OPTIONAL])
def test_a_run_outside_the_rules_needs_every_key(tmp_path: Path, name: str) -> None:
    spoilt = [line for line in lines_of(small_log(tmp_path)) if key(line) != name]
    assert_named(verdict(tmp_path, spoilt), name)


def test_the_cadence_outside_the_rules_is_the_logs_own(tmp_path: Path) -> None:
    lines = lines_of(small_log(tmp_path))
    start, stop = index(lines, "tracked_stats", 4), index(lines, "eval_stop", 4)
    assert_named(verdict(tmp_path, lines[:start] + lines[stop + 2 :]), "eval_start: found none between 3,200 and 4,480")


def test_an_evaluation_skipped_before_the_first_is_named(tmp_path: Path) -> None:
    early = replace(SMALL, start_eval_at=0)
    lines = lines_of(small_log(tmp_path, early))
    start, stop = index(lines, "tracked_stats"), index(lines, "eval_stop")
    assert_named(verdict(tmp_path, lines[:start] + lines[stop + 2 :]), "eval_start: found none between 0 and 1,280")


def test_an_aborted_run_outside_the_rules_does_not_hold(tmp_path: Path) -> None:
    outcome = Outcome("aborted", "interrupted", 130, 160, 1280)
    report = check(small_log(tmp_path, validation_losses=[6.0, 5.0], outcome=outcome), NEWEST)
    assert_named(report, "status aborted (interrupted)", "eval_accuracy: found 5.0 at the last evaluation; wants 4.5")


def test_open_by_choice_holds_without_departures(tmp_path: Path) -> None:
    report = check(write_log(tmp_path / "log", replace(SETTINGS, submission_division=Division.open)), NEWEST)
    assert report.passes and not report.departures
    assert report.notes == ["submission_division: open by choice; the log declares no departure"]


def test_a_closed_log_must_not_declare_departures(tmp_path: Path, lines: list[str]) -> None:
    declared = {"departures": ["SIZE=demo: the closed division has 8b"]}
    spoilt = edited(lines, "submission_division", lambda line: changed(line, metadata=declared))
    assert_named(verdict(tmp_path, spoilt), "submission_division: found closed, with departures declared; wants open")


def test_departures_of_other_projects_logs_are_found(tmp_path: Path) -> None:
    lines = lines_of(small_log(tmp_path))
    lines = edited(lines, "submission_division", lambda line: changed(line, metadata={"departures": None}))
    lines = edited(lines, "opt_name", lambda line: changed(line, value="muon"))
    report = verdict(tmp_path, lines)
    assert report.passes, f"only values differ from the closed division: {report.failures}"
    assert {departure.partition(":")[0] for departure in report.departures} == {
        "max_sequence_length", "eval_samples", "max_steps", "opt_learning_rate_decay_steps", "opt_end_learning_rate",
        "target_accuracy", "eval_accuracy", "opt_name",
    }, "list each value that the closed division forbids"  # fmt: skip
    assert_named(verdict(tmp_path, [line for line in lines if key(line) != "run_start"]), "run_start")


def test_a_sparser_cadence_in_other_projects_logs_is_a_departure(tmp_path: Path) -> None:
    lines = lines_of(write_log(tmp_path / "log", replace(SETTINGS, eval_every=24_576)))
    silent = {"departures": None, "eval_every": None, "start_eval_at": None}
    lines = edited(lines, "submission_division", lambda line: changed(line, value="open", metadata=silent))
    lines = edited(lines, "eval_samples", lambda line: changed(line, metadata=silent))
    report = verdict(tmp_path, lines)
    assert report.passes and len(report.departures) == 1, report
    assert report.departures[0].startswith("eval_start: found none between 0 and 24,576 training sequences")
