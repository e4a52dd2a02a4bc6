"""`llama31 check`: MLCommons' verdict on closed logs, and every other flaw caught and named."""

import gzip
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmark_run import SETTINGS, losses, write_log
from mlperf_logging.compliance_checker import mlp_compliance
from submissions import rule_files_parsed_once

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config.departures import departures as departures_of
from llama31.mlperf.check import official, submission
from llama31.mlperf.check import one_log as module
from llama31.mlperf.check.one_log import Report, check
from llama31.mlperf.check.own_rules import LEAST_WHOLE_NUMBER, POSITIVE_NUMBERS
from llama31.run_dir.events import Outcome
from llama31.settings import Division, Settings

PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "logs"
NEWEST = rules.RULESETS[-1]
TOKEN = ":::MLLOG "


@pytest.fixture(autouse=True, scope="module")
def _rule_files_are_parsed_once() -> Iterator[None]:
    with rule_files_parsed_once():
        yield


@cache
def full_log(directory: Path) -> list[str]:
    """Lines of a full-size benchmark run's log."""
    return lines_of(write_log(directory / "full.log"))


@pytest.fixture
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Lines of a full-size benchmark run's log, for a test to spoil."""
    return list(full_log(tmp_path_factory.getbasetemp()))


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines(keepends=True)


def fields(line: str) -> dict[str, Any]:
    return json.loads(line.partition(TOKEN)[2])


def key(line: str) -> str:
    return fields(line)["key"]


def changed(line: str, **changes: Any) -> str:
    """The line with some fields changed; `metadata` is added to the line's."""
    old = fields(line)
    changes["metadata"] = old["metadata"] | changes.get("metadata", {})
    return TOKEN + json.dumps(old | changes) + "\n"


def edited(lines: list[str], name: str, edit: Callable[[str], str]) -> list[str]:
    """The lines, those of one key edited."""
    assert any(key(line) == name for line in lines), f"{name} is not in the log: name a key that MLPerfLog writes"
    return [edit(line) if key(line) == name else line for line in lines]


def index(lines: list[str], name: str, nth: int = 0) -> int:
    """Place of the nth line of a key."""
    return [number for number, line in enumerate(lines) if key(line) == name][nth]


def verdict(tmp_path: Path, lines: list[str], ruleset: str = NEWEST) -> Report:
    """The report on such a log, held against what the official checker says of it."""
    log = tmp_path / "spoilt.log"
    log.write_text("".join(lines), encoding="latin-1")
    report = check(log, ruleset)
    if report.is_closed and not report.damaged.count:
        assert report.is_accepted == officially_accepted(log, ruleset), "check must repeat the official verdict"
    return report


def officially_accepted(log: Path, ruleset: str) -> bool:
    """The official checker's verdict, by its own main function; what makes it crash is not accepted."""
    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker("training", ruleset, quiet=False, werror=False)
    try:
        return mlp_compliance.main(str(log), f"training_{ruleset}/common.yaml", checker)[0]
    except (FileNotFoundError, TypeError, KeyError):
        return False


def assert_named(report: Report, *names: str) -> None:
    """The log does not hold, and the failures name these things."""
    text = "\n".join(map(str, report.failures))
    for name in names:
        assert name in text, f"a failure must name {name!r}; check says:\n" + "\n".join(module.lines(report))
    assert not report.holds


# A log as it should be


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_a_full_size_run_holds(tmp_path: Path, lines: list[str], ruleset: str) -> None:
    report = verdict(tmp_path, lines, ruleset)
    assert (report.failures, report.departures, report.notes) == ([], [], []), "nothing is wrong with this log"
    assert report.is_closed and report.is_accepted and report.holds


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
    assert "holds: no evaluation was skipped, and sample counts are exact" in text
    assert text[-1] == "verdict: holds; the official checker accepts the log in the closed division, ruleset 6.1.0"


def test_exit_codes_and_output(tmp_path: Path, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "mlperf.log"
    log.write_text("".join(lines))
    assert submission.run([tmp_path], NEWEST) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: holds"), "the verdict is the last line"
    log.write_text("".join(line for line in lines if key(line) != "seed"))
    assert submission.run([log], NEWEST) == 1
    printed = capsys.readouterr().out.splitlines()
    assert "fails: seed: found none; wants exactly one line" in printed
    assert printed[-1] == "verdict: does not hold, for 1 reason; the official checker accepts the log"


def test_chatter_of_ranks_is_passed_over(tmp_path: Path, lines: list[str]) -> None:
    chatter = ["[NeMo I] \xe9\xff training ...\n", "\n", ":::DLPAL x\n", " 0: step 3\r 0: step 4\n"]
    noisy = [part for line in lines for part in (*chatter, " 0: " + line)]
    assert verdict(tmp_path, noisy).holds, "only what follows :::MLLOG counts"


def test_checking_leaves_logging_and_the_checker_as_they_were(tmp_path: Path, lines: list[str]) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        verdict_without_oracle = check(write_log(tmp_path / "log"), NEWEST)
        assert root.handlers == [], "leave the root logger alone"
    finally:
        root.handlers = handlers
    assert verdict_without_oracle.holds
    assert mlp_compliance.enqueued_configs == [], "the checker's global list would leak into the next check"


# Each key, spoilt in turn

KEYS = (
    "cache_clear", "init_start", "submission_benchmark", "submission_division", "submission_org",
    "submission_platform", "submission_status", "seed", "global_batch_size", "micro_batch_size",
    "gradient_accumulation_steps", "max_sequence_length", "train_samples", "eval_samples", "init_checkpoint_step",
    "opt_name", "opt_base_learning_rate", "opt_end_learning_rate", "opt_learning_rate_warmup_steps",
    "opt_learning_rate_decay_steps", "opt_learning_rate_decay_schedule", "opt_adamw_beta_1", "opt_adamw_beta_2",
    "opt_adamw_epsilon", "opt_adamw_weight_decay", "opt_gradient_clip_norm", "max_steps", "target_accuracy",
    "lowest_numerical_precision_in_linear", "lowest_numerical_precision_in_attn",
    "lowest_numerical_precision_in_comm", "tensor_parallelism", "pipeline_parallelism", "context_parallelism",
    "expert_parallelism", "config_filename", "init_stop", "run_start", "block_start", "tracked_stats", "block_stop",
    "eval_start", "eval_accuracy", "eval_stop", "run_stop",
)  # fmt: skip
NOT_CHECKED = {"tracked_stats"}  # informative; no rule wants it
OPTIONAL = {"submission_status", "target_accuracy", "init_checkpoint_step"}  # AMD's accepted logs lack the second
NEVER_WRONG = {"submission_status"}  # no ruleset looks at its value
REPEATED = {"cache_clear", "init_start", "block_start", "block_stop", "eval_start", "eval_accuracy", "eval_stop"}
DESCRIBED = [name for name in KEYS if name not in REPEATED | NOT_CHECKED | {"init_stop", "run_start", "run_stop"}]

WRONG: dict[str, list[Any]] = {
    "submission_benchmark": ["llama31_405b", "no_such_benchmark", None, ["llama31_8b"]],
    "submission_division": ["closd", None],
    "submission_org": [""],
    "submission_platform": [""],
    "seed": ["abc", -1],
    "global_batch_size": [0, "32", 7, None],
    "micro_batch_size": [0, 3],
    "gradient_accumulation_steps": [0, 5],
    "max_sequence_length": [4096, "8192"],
    "train_samples": ["", 0],
    "eval_samples": [1023, None],
    "init_checkpoint_step": [100],
    "opt_name": ["adam"],
    "opt_base_learning_rate": [0, "8e-4", 7e-4],
    "opt_end_learning_rate": [8e-4, None, "8e-05"],
    "opt_learning_rate_warmup_steps": [-1, 511, "512"],
    "opt_learning_rate_decay_steps": [1_200_000],
    "opt_learning_rate_decay_schedule": ["cosine"],
    "opt_adamw_beta_1": [0.95],
    "opt_adamw_beta_2": [0.999],
    "opt_adamw_epsilon": [1e-8],
    "opt_adamw_weight_decay": [0.01],
    "opt_gradient_clip_norm": [0.3],
    "max_steps": [5120],
    "target_accuracy": [3.4, "3.3"],
    "lowest_numerical_precision_in_linear": ["bf16"],
    "lowest_numerical_precision_in_attn": ["bf16"],
    "lowest_numerical_precision_in_comm": [None],
    "tensor_parallelism": [0, "1"],
    "pipeline_parallelism": [0],
    "context_parallelism": [0.5],
    "expert_parallelism": [0],
    "config_filename": [""],
    "eval_accuracy": [3.31, float("nan"), None, "3.2", -1.0],
}
# A wrong value of the first key shows in the second, which no longer fits it.
SHOWS_IN = {
    ("micro_batch_size", 3): "micro_batch_size x gradient_accumulation_steps",
    ("gradient_accumulation_steps", 5): "micro_batch_size x gradient_accumulation_steps",
    ("opt_base_learning_rate", 7e-4): "opt_end_learning_rate",
    ("opt_learning_rate_warmup_steps", 511): "opt_learning_rate_decay_steps",
}


def test_the_keys_of_these_tests_are_those_of_the_log(lines: list[str]) -> None:
    assert {key(line) for line in lines} == set(KEYS), "list every key that MLPerfLog writes in KEYS"
    assert set(DESCRIBED) - NEVER_WRONG <= set(WRONG), "give a wrong value in WRONG for each key that describes the run"


@pytest.mark.parametrize("name", [name for name in KEYS if name not in NOT_CHECKED])
def test_a_key_that_is_missing_is_named(tmp_path: Path, lines: list[str], name: str) -> None:
    report = verdict(tmp_path, [line for line in lines if key(line) != name])
    if name in OPTIONAL:
        assert any(note.startswith(f"{name}: not in the log") for note in report.notes), f"a note must name {name}"
    else:
        assert_named(report, name)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_named(tmp_path: Path, lines: list[str], name: str, value: Any) -> None:
    report = verdict(tmp_path, edited(lines, name, lambda line: changed(line, value=value)))
    shows_in = SHOWS_IN.get((name, value), name) if isinstance(value, int | float) else name
    assert_named(report, shows_in)


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_second_line_with_another_value_is_named(tmp_path: Path, lines: list[str], name: str) -> None:
    other = "cloud" if name in NEVER_WRONG else WRONG[name][0]
    spoilt = edited(lines, name, lambda line: line + changed(line, value=other))
    assert_named(verdict(tmp_path, spoilt), f"{name}: found 2 lines that differ")


def test_a_second_line_with_the_same_value_is_a_note(tmp_path: Path, lines: list[str]) -> None:
    report = verdict(tmp_path, edited(lines, "opt_name", lambda line: line * 2))
    assert report.holds, "the official checker only warns of it"
    assert report.notes == ["opt_name: found 2 lines; wants exactly one line"]


@pytest.mark.parametrize("name", KEYS)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, lines: list[str], name: str) -> None:
    place = index(lines, name)
    damaged = [*lines[:place], lines[place][:40] + "\n", *lines[place + 1 :]]
    assert_named(verdict(tmp_path, damaged), f"1 that cannot be read, line {place + 1}")


@pytest.mark.parametrize(
    "damage", ["[]", "null", '{"key": "seed"}', '{"key": 1, "value": 1, "time_ms": 1, "metadata": {}}', "[" * 100_000]
)
def test_json_that_is_no_record_is_damage(tmp_path: Path, lines: list[str], damage: str) -> None:
    log = tmp_path / "log"
    log.write_text("".join([TOKEN + damage + "\n", *lines]))
    assert_named(check(log, NEWEST), "1 that cannot be read, line 1")


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
@pytest.mark.parametrize("name", ["seed", "eval_accuracy", "block_stop"])
def test_a_line_that_another_begins_within_is_damage(tmp_path: Path, lines: list[str], name: str, half: bool) -> None:
    place = index(lines, name)
    line = lines[place].rstrip("\n")
    glued = "0: step 3 " + line[: len(line) // 2 if half else None]
    report = verdict(tmp_path, [*lines[:place], glued + lines[place + 1], *lines[place + 2 :]])
    assert_named(report, f"1 that cannot be read, line {place + 1} (another line begins within it)", name)
    assert key(lines[place + 1]) not in {finding.key for finding in report.failures}, "the line behind it counts"


def test_statistics_that_are_no_object_are_damage(tmp_path: Path, lines: list[str]) -> None:
    place = index(lines, "tracked_stats")
    lines[place] = changed(lines[place], value=3)
    assert_named(verdict(tmp_path, lines), f"1 that cannot be read, line {place + 1}")


def test_a_compressed_log_is_judged(tmp_path: Path, lines: list[str]) -> None:
    log, packed = write_log(tmp_path / "mlperf.log"), tmp_path / "result_0.txt.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    plain, found = check(log, NEWEST), check(packed, NEWEST)
    assert found.holds and found.checks == plain.checks
    packed.write_bytes(packed.read_bytes()[:-300])
    assert_named(check(packed, NEWEST), "2 that cannot be read, line ", "(no JSON; the compressed file ends too early")


def test_a_log_of_damage_alone_is_judged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text((TOKEN + "{\n") * 22)
    assert_named(check(log, NEWEST), "22 that cannot be read, line 1, 2, 3, ", "19, 20, ... (no JSON)", "run_stop")


HUGE = 10**400  # JSON may hold it; no float can


@pytest.mark.parametrize("name", [*LEAST_WHOLE_NUMBER, *POSITIVE_NUMBERS])
def test_a_number_that_no_float_can_hold_is_named(tmp_path: Path, lines: list[str], name: str) -> None:
    report = verdict(tmp_path, edited(lines, name, lambda line: changed(line, value=HUGE)))
    assert_named(report, f"{name}: found 1000")


@pytest.mark.parametrize("name", ["eval_start", "eval_accuracy", "run_stop"])
def test_a_sample_count_that_no_float_can_hold_is_named(tmp_path: Path, lines: list[str], name: str) -> None:
    spoilt = edited(lines, name, lambda line: changed(line, metadata={"samples_count": HUGE}))
    assert_named(verdict(tmp_path, spoilt), f"{name}: found samples_count 1000")


def test_a_time_that_no_float_can_hold_is_damage(tmp_path: Path, lines: list[str]) -> None:
    log = tmp_path / "log"
    log.write_text("".join(edited(lines, "run_stop", lambda line: changed(line, time_ms=HUGE))))
    assert_named(check(log, NEWEST), "1 that cannot be read", "run_stop: found none")


def test_half_a_surrogate_pair_is_damage(tmp_path: Path, lines: list[str]) -> None:
    log = tmp_path / "log"
    log.write_text("".join(edited(lines, "submission_org", lambda line: changed(line, value="\ud800"))))
    assert_named(check(log, NEWEST), "1 that cannot be read", "submission_org: found none")


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
    assert_named(report, "that cannot be read, line")
    assert report.is_accepted is None, "what the official checker makes of damage is not for us to say"


@pytest.mark.parametrize("name", ["eval_start", "block_stop", "run_stop"])
def test_time_does_not_go_back(tmp_path: Path, lines: list[str], name: str) -> None:
    """A run that ends before it starts would have the best score of all."""
    report = verdict(tmp_path, edited(lines, name, lambda line: changed(line, time_ms=-5)))
    assert_named(report, "wants times that do not go back")
    assert ("time" in report.facts) == (name != "run_stop"), "no time is better than one below 0"
    assert (report.notes == ["run_stop: is before run_start; no time to train is given"]) == (name == "run_stop")


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
    stop = index(lines, "eval_stop", evaluation)  # the block goes on: neither its stop nor the next start is there
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
    ], "a closed log's cadence is the benchmark's, whatever its metadata say"


def test_a_denser_cadence_is_a_note(tmp_path: Path) -> None:
    dense = replace(SETTINGS, eval_every=8192)
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", dense)))
    assert report.holds, "MLCommons accepted such logs in v5.1"
    assert report.notes == ["eval_start: evaluations every 8,192 training sequences; the rule is 12,288"]


@pytest.mark.parametrize("batch", [16, 64, 96, 128])
def test_the_cadence_is_rounded_up_to_whole_steps(tmp_path: Path, batch: int) -> None:
    settings = replace(SETTINGS, gbs=batch)
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", settings)))
    assert report.holds and not report.notes, "CEIL(12,288 / GBS) x GBS sequences"


@pytest.mark.parametrize("name", ["eval_start", "eval_accuracy"])
@pytest.mark.parametrize("samples", [None, "12288", 12289, 0, -32])
def test_a_wrong_sample_count_is_named(tmp_path: Path, lines: list[str], name: str, samples: Any) -> None:
    place = index(lines, name)
    lines[place] = changed(lines[place], metadata={"samples_count": samples})
    assert_named(verdict(tmp_path, lines), name, "samples_count")


def test_a_sample_count_that_falls_is_named(tmp_path: Path, lines: list[str]) -> None:
    place = index(lines, "eval_start", 3)
    lines[place] = changed(lines[place], metadata={"samples_count": 12288})
    assert_named(verdict(tmp_path, lines), "eval_start: found a samples_count that does not grow")


def test_a_lost_result_is_one_reason(tmp_path: Path, lines: list[str]) -> None:
    del lines[index(lines, "eval_accuracy", 3)]
    report = verdict(tmp_path, lines)
    assert list(map(str, report.failures)) == [
        "eval_accuracy: found 13 lines for 14 evaluations; wants one for each"
    ], "each result is held against the evaluation that it is of"
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


def test_a_run_that_went_on_past_its_target_is_named(tmp_path: Path) -> None:
    found = [*losses()[:-2], 3.25, 3.2]
    report = verdict(tmp_path, lines_of(write_log(tmp_path / "log", validation_losses=found)))
    assert_named(report, "eval_accuracy: found 3.25 in line", "with more to follow; wants the run to stop at 3.3")


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
    assert_named(report, "run_stop: found none, so the run was killed or still goes on; wants exactly one line")


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
    assert (report.failures, report.holds, report.is_closed) == ([], True, False)
    assert report.departures == departures_of(SMALL), "list the declared departures and no other"
    printed = list(module.lines(report))
    assert "departs from the closed division: SEQ_LENGTH=512: the closed division has 8192" in printed
    assert (
        printed[-1] == "verdict: holds outside the closed division, from which it departs as said and in nothing else"
    )


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
    assert report.holds and not report.departures
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
    assert report.holds, f"values alone differ from the closed division: {report.failures}"
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
    assert report.holds and len(report.departures) == 1, report
    assert report.departures[0].startswith("eval_start: found none between 0 and 24,576 training sequences")


# The rule files and hostile logs


def official_tests() -> Iterator[str]:
    """Every test of the rule files that judge this benchmark in the closed division."""
    for ruleset in rules.RULESETS:
        directory = Path(mlp_compliance.__file__).parent / f"training_{ruleset}"
        for name in ("common", "closed_common", f"closed_{rules.BENCHMARK}"):
            for entry in yaml.safe_load((directory / f"{name}.yaml").read_text()):
                for kind in ("CHECK", "ATLEAST_ONE_CHECK"):
                    tests = entry.get("KEY", {}).get(kind, [])
                    yield from [tests] if isinstance(tests, str) else tests


def test_every_official_test_of_a_value_has_words() -> None:
    """Others, such as those of metadata, are quoted."""
    of_values = {test for test in official_tests() if "v['value']" in test}
    assert len(of_values) > 10
    wordless = {test for test in of_values if official.in_words(test)[0].startswith("to pass")}
    assert not wordless, f"say in official._TESTS what these want: {wordless}"


def test_a_log_cannot_name_files_to_execute(tmp_path: Path, lines: list[str]) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "evil_common.yaml").write_text(f"- BEGIN:\n    CODE: open({str(ran)!r}, 'w')\n")
    division = "/".join([".."] * 40) + f"{tmp_path}/evil"
    spoilt = edited(lines, "submission_division", lambda line: changed(line, value=division))
    log = tmp_path / "log"
    log.write_text("".join(spoilt))
    assert_named(check(log, NEWEST), "submission_division")
    assert not ran.exists(), "the checker must not be given a division of the log's choice"


# MLCommons' published logs

published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the published logs are not there: {PUBLISHED}")
NOTES = {
    "AMD": {"target_accuracy": "not in the log", "eval_accuracy": "samples_count is not that of the eval_start"},
    "HPE": {
        "submission_platform": "PLACEHOLDER",
        "eval_start": "every 8,192 training sequences; the rule is 12,288",
        "block_stop": "samples_count is not that of the eval_start",
    },
    "University": {
        "submission_org": "PLACEHOLDER",
        "submission_platform": "PLACEHOLDER",
        "cache_clear": "does not say",
        "block_stop": "samples_count is not that of the eval_start",
    },
}


def published_logs() -> list[Path]:
    return sorted(PUBLISHED.glob("*/result_*.txt"))


@published
def test_all_published_logs_are_there() -> None:
    assert len(published_logs()) == 30, f"v5.1 has three systems' ten logs in {PUBLISHED}"


@published
@pytest.mark.parametrize("log", published_logs(), ids=lambda log: f"{log.parent.name[:3]}-{log.stem}")
def test_a_published_log_holds_as_mlcommons_said(log: Path) -> None:
    report = check(log, "5.1.0")
    assert report.is_accepted == officially_accepted(log, "5.1.0") == report.holds, "\n".join(module.lines(report))
    notes = {note.partition(": ")[0]: note for note in report.notes}
    expected = dict(next(expected for org, expected in NOTES.items() if log.parent.name.startswith(org)))
    if log.parent.name.startswith("HPE") and log.name == "result_6.txt":
        expected["eval_accuracy"] = "rises from 3.32 to 3.49 after 196,608 training sequences, and is at 3.29 again"
    assert notes.keys() == expected.keys(), "note what is odd in this system's logs and nothing else"
    assert all(words in notes[name] for name, words in expected.items()), notes


@published
@pytest.mark.parametrize("system", sorted(NOTES))
def test_a_published_log_lacks_what_ruleset_6_1_0_added(tmp_path: Path, system: str) -> None:
    log = next(log for log in published_logs() if log.parent.name.startswith(system))
    report = check(log, "6.1.0")
    added = [name for name in KEYS if "_precision_" in name or "parallelism" in name]
    assert {finding.key for finding in report.failures} == {*added, "micro_batch_size", "config_filename"}
    assert not report.is_accepted and not officially_accepted(log, "6.1.0")
    note = "ruleset: accepted by --ruleset 5.1.0 and 6.0.0; the keys that are missing came later"
    assert note in report.notes and officially_accepted(log, "5.1.0")
    spoilt = tmp_path / "log"
    spoilt.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"seed"' not in line))
    assert note in check(spoilt, "6.1.0").notes and officially_accepted(spoilt, "5.1.0"), "the seed is our own rule"
    spoilt.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if "max_steps" not in line))
    assert not any("--ruleset" in note for note in check(spoilt, "6.1.0").notes), "no ruleset takes it so"


# What a user can get wrong


@pytest.mark.parametrize(
    ("content", "ruleset", "message"),
    [
        (None, NEWEST, "mlperf.log: no such file; give a run directory or an MLPerf log"),
        ("", NEWEST, "mlperf.log: has no :::MLLOG line"),
        ("step 1\nstep 2\n", NEWEST, "mlperf.log: has no :::MLLOG line"),
        ("", "4.1.0", "--ruleset 4.1.0: not one that has llama31_8b: 5.1.0, 6.0.0, 6.1.0"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, content: str | None, ruleset: str, message: str) -> None:
    if content is not None:
        (tmp_path / "mlperf.log").write_text(content)
    with pytest.raises(UserError) as error:
        check(tmp_path, ruleset)
    assert len(error.value.lines) == 1 and message in error.value.lines[0], error.value.lines


def test_a_path_that_is_nowhere_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file"):
        check(tmp_path / "nowhere", NEWEST)
