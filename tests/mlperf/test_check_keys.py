"""`llama31 check` on one log: each key missing, wrong or repeated, and each kind of damaged line, is named."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from edited_logs import KEYS, NOT_CHECKED, OPTIONAL, assert_named, changed, edited, index, key, verdict
from submissions import NEWEST, TOKEN

from dev.support.benchmark_run import write_log
from llama31.mlperf.check.one_log import check
from llama31.mlperf.check.own_rules import LEAST_WHOLE_NUMBER, POSITIVE_NUMBERS

pytestmark = pytest.mark.usefixtures("rule_files_are_parsed_once")

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
    assert report.passes, "the official checker only warns of it"
    assert report.notes == ["opt_name: found 2 lines; wants exactly one line"]


@pytest.mark.parametrize("name", KEYS)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, lines: list[str], name: str) -> None:
    place = index(lines, name)
    damaged = [*lines[:place], lines[place][:40] + "\n", *lines[place + 1 :]]
    assert_named(verdict(tmp_path, damaged), f"1 unreadable, line {place + 1}")


@pytest.mark.parametrize(
    "damage", ["[]", "null", '{"key": "seed"}', '{"key": 1, "value": 1, "time_ms": 1, "metadata": {}}', "[" * 100_000]
)
def test_json_that_is_no_record_is_damage(tmp_path: Path, lines: list[str], damage: str) -> None:
    log = tmp_path / "log"
    log.write_text("".join([TOKEN + damage + "\n", *lines]))
    assert_named(check(log, NEWEST), "1 unreadable, line 1")


@pytest.mark.parametrize("half", [True, False], ids=["half", "whole"])
@pytest.mark.parametrize("name", ["seed", "eval_accuracy", "block_stop"])
def test_a_line_that_another_begins_within_is_damage(tmp_path: Path, lines: list[str], name: str, half: bool) -> None:
    place = index(lines, name)
    line = lines[place].rstrip("\n")
    glued = "0: step 3 " + line[: len(line) // 2 if half else None]
    report = verdict(tmp_path, [*lines[:place], glued + lines[place + 1], *lines[place + 2 :]])
    assert_named(report, f"1 unreadable, line {place + 1} (another line begins within it)", name)
    assert key(lines[place + 1]) not in {finding.key for finding in report.failures}, "the line behind it counts"


def test_statistics_that_are_no_object_are_damage(tmp_path: Path, lines: list[str]) -> None:
    place = index(lines, "tracked_stats")
    lines[place] = changed(lines[place], value=3)
    assert_named(verdict(tmp_path, lines), f"1 unreadable, line {place + 1}")


def test_a_compressed_log_is_judged(tmp_path: Path, lines: list[str]) -> None:
    log, packed = write_log(tmp_path / "mlperf.log"), tmp_path / "result_0.txt.gz"
    packed.write_bytes(gzip.compress(log.read_bytes()))
    plain, found = check(log, NEWEST), check(packed, NEWEST)
    assert found.passes and found.checks == plain.checks
    packed.write_bytes(packed.read_bytes()[:-300])
    assert_named(check(packed, NEWEST), "2 unreadable, line ", "(not JSON; the compressed file is truncated or damaged")


def test_a_log_of_damage_alone_is_judged(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text((TOKEN + "{\n") * 22)
    assert_named(check(log, NEWEST), "22 unreadable, line 1, 2, 3, ", "19, 20, ... (not JSON)", "run_stop")


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
    assert_named(check(log, NEWEST), "1 unreadable", "run_stop: found none")


def test_half_a_surrogate_pair_is_damage(tmp_path: Path, lines: list[str]) -> None:
    log = tmp_path / "log"
    log.write_text("".join(edited(lines, "submission_org", lambda line: changed(line, value="\ud800"))))
    assert_named(check(log, NEWEST), "1 unreadable", "submission_org: found none")
