"""`llama31 check` over several logs: what they must have in common, and damage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from checkout import PUBLISHED_LOGS
from judged_runs import judge, log, name, printed
from submissions import (
    NEWEST,
    TOKEN,
    edit,
    fields,
    ten_runs,
    write_metrics,
    write_run,
)

from dev.support.benchmark_run import SETTINGS, losses
from llama31.common.errors import UserError
from llama31.config import departures, paths
from llama31.mlperf.check import submission

pytestmark = pytest.mark.usefixtures("rule_files_are_parsed_once")


def test_three_runs_hold_so_far(three: list[Path]) -> None:
    found = judge(three)
    text = printed(found)
    assert found.passes, text
    assert "passes             2   184,320    30.00  3.2900  " in text, "a row for each log"
    assert "rcp: the reference: mean 178,859 samples, minimum 173,650, at global batch size 32 (a point of" in text
    assert "rcp: on track: 184,320 samples, mean of 3 runs" in text
    assert text.endswith("verdict: pass so far; a submission has 10 runs, these are 3")


# What differs


def test_equal_seeds_are_named(three: list[Path]) -> None:
    edit(log(three[2]), "seed", lambda line: line | {"value": 1})
    assert judge(three).failures == [
        f"seed: found 1 in {name(three[0])}, {name(three[2])}; wants a different seed in each log"
    ]


def test_the_same_log_twice_is_a_mistake(three: list[Path]) -> None:
    with pytest.raises(UserError, match=f"^{three[0]}: given more than once$"):
        judge([*three, three[0] / ".." / three[0].name])


def test_a_log_that_links_to_itself_is_one_line(three: list[Path], tmp_path: Path) -> None:
    (link := tmp_path / "log.txt").symlink_to(link)
    with pytest.raises(UserError, match=f"^{link}: "):
        judge([*three, link])


def test_a_key_cannot_steer_the_terminal(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    edit(log(three[1]), "gradient_accumulation_steps", lambda line: line | {"key": "\x1b[31m"})
    assert submission.check(three, NEWEST) == 1
    out = capsys.readouterr().out
    assert "?[31m: found" in out and "\x1b" not in out


def test_a_missing_seed_is_named(three: list[Path]) -> None:
    edit(log(three[1]), "seed", lambda _: None)
    assert judge(three).failures == [f"{name(three[1])}: seed: found none; wants exactly one line"]


@pytest.mark.parametrize(("key", "value"), [("opt_base_learning_rate", 4e-4), ("train_samples", 5), ("seed_of_x", 1)])
def test_a_setting_that_differs_is_named(three: list[Path], key: str, value: object) -> None:
    if key == "seed_of_x":  # another project's key, which only one log has
        lines = log(three[1]).read_text().splitlines(keepends=True)
        added = TOKEN + json.dumps(fields(log(three[1]), "seed") | {"key": key, "value": value}) + "\n"
        log(three[1]).write_text("".join([added, *lines]))
    else:
        edit(log(three[1]), key, lambda line: line | {"value": value})
    failures = [failure for failure in judge(three).failures if failure.startswith(key)]
    assert len(failures) == 1
    assert failures[0].endswith(f"{value} in {name(three[1])}; wants the same in all logs") or (
        f"{value} in {name(three[1])}; " in failures[0]
    )


def test_batch_sizes_that_differ_leave_convergence_unjudged(three: list[Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", replace(SETTINGS, gbs=64), seed=7)
    found = judge([*three, other])
    assert any(failure.startswith("global_batch_size: found 32 in 3 logs; 64 in ") for failure in found.failures)
    assert "rcp: not judged; reference points are for closed logs of one global batch size" in printed(found)


def test_a_skipped_evaluation_is_named(three: list[Path]) -> None:
    for key in ("eval_start", "eval_accuracy", "eval_stop"):
        edit(log(three[1]), key, lambda line: None if line["metadata"]["samples_count"] == 24_576 else line)
    failures = judge(three).failures
    assert f"{name(three[1])}: eval_start: found none between 12,288 and 36,864" in "\n".join(failures)
    odd = f"one after 36864 samples, where {name(three[2])} has 24576, in {name(three[1])}"
    assert f"eval_start: found {odd}; wants the same in all logs" in "\n".join(failures)


def test_another_cadence_in_one_log_is_named(three: list[Path], tmp_path: Path) -> None:
    dense = write_run(tmp_path / "dense", replace(SETTINGS, eval_every=8192), seed=9, evaluations=21)
    found = judge([*three, dense])
    (failure,) = [failure for failure in found.failures if failure.startswith("eval_start: found one after 8192")]
    assert failure.endswith("has 12288, in dense/mlperf.log; wants the same in all logs")


def test_a_cadence_that_several_logs_have_is_one_reason(three: list[Path], tmp_path: Path) -> None:
    dense = [
        write_run(tmp_path / f"dense-{seed}", replace(SETTINGS, eval_every=8192), seed=seed, evaluations=21)
        for seed in range(4, 8)
    ]
    failures = [failure for failure in judge([*three, *dense]).failures if "one after 12288 samples" in failure]
    assert len(failures) == 1 and failures[0].count("where dense-4/mlperf.log has 8192") == 1
    assert ", ".join(map(name, three)) in failures[0]


def test_what_a_rule_has_against_several_logs_is_one_reason(three: list[Path]) -> None:
    for run, value in zip(three, ("adam", "adam", "muon"), strict=True):
        edit(log(run), "opt_name", lambda line, value=value: line | {"value": value})
        edit(log(run), "eval_accuracy", lambda line: line | {"value": line["value"] + 0.0125})
    found = judge(three)
    (failure,) = [failure for failure in found.failures if failure.startswith("opt_name") and "adamw" in failure]
    assert f'found "adam" in line 16 in 2 logs; "muon" in line 16 in {name(three[2])}; wants' in failure
    assert any(failure.startswith("all 3 logs: eval_accuracy: found 3.30") for failure in found.failures)


def test_validation_data_that_differs_is_named(three: list[Path]) -> None:
    metrics = three[1] / paths.METRICS
    metrics.unlink()
    write_metrics(three[1], SETTINGS, losses(evaluations=15), token_hash="f" * 16)
    (failure,) = judge(three).failures
    assert failure.startswith('token_hash: found "0000000000000000" in 2 logs; "ffffffffffffffff" in ')


def test_validation_data_that_differs_within_a_run_is_named(
    three: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_metrics(three[1], SETTINGS, losses(), token_hash="f" * 16)
    wants = 'token_hash: found ["0000000000000000", "ffffffffffffffff"]; wants one, the same in all evaluations'
    assert submission.check(three[1:2], NEWEST) == 1
    assert f"fails: {wants}" in capsys.readouterr().out.splitlines()
    found = judge(three)
    assert found.failures == [f"{name(three[1])}: {wants}"], "once, and no other failure"
    assert "validation data is the same" not in printed(found)


def known(run: Path, *events: str) -> None:
    """Write these lines as a run's metrics."""
    (run / paths.METRICS).write_text("".join(event + "\n" for event in events))


EVENT = '{"event": "evaluation", "token_hash": "0000000000000000"}'
LINES_OF_METRICS = {
    "one of all": ([EVENT], ["token_hash: known for 1 of 15 evaluations"]),
    "empty": ([], ["token_hash: known for 0 of 15 evaluations"]),
    "damaged": (
        [*[EVENT] * 14, EVENT[:40], "[]"],
        [
            "metrics.jsonl: found 2 unreadable, line 15, 16 (not JSON; list indices must be integers",
            "token_hash: known for 14 of 15 evaluations",
        ],
    ),
    "without": (['{"event": "evaluation"}'], ["found 1 unreadable, line 1 (no token_hash)"]),
}


@pytest.mark.parametrize("lines", LINES_OF_METRICS)
def test_unknown_validation_data_is_reported(three: list[Path], lines: str) -> None:
    events, said = LINES_OF_METRICS[lines]
    known(three[1], *events)
    for found, start in ((judge(three), f"note: {name(three[1])}: "), (judge(three[1:2]), "note: ")):
        text = printed(found)
        assert start in text and all(note in text for note in said), text
        assert "without metrics" not in text
        assert "validation data is the same" not in text and "are of the same data" not in text, "that is not known"
        assert found.passes, "nothing is known against it either"


def test_logs_without_metrics_leave_validation_data_unknown(three: list[Path]) -> None:
    assert "passes: the validation data is the same" in printed(judge(three))
    assert "passes: all evaluations are of the same data" in printed(judge(three[:1]))
    (three[1] / paths.METRICS).unlink()
    text = printed(judge(three))
    assert f"note: token_hash: 1 of 3 logs without {paths.METRICS} beside them" in text
    assert "validation data is the same" not in text, "of one it is not known"
    for run in three:
        (run / paths.METRICS).unlink(missing_ok=True)
    assert "data" not in "".join(line for line in printed(judge(three)).splitlines() if line.startswith("passes"))


def test_logs_of_both_divisions_do_not_mix(three: list[Path], tmp_path: Path) -> None:
    small = replace(SETTINGS, eval_samples=96)
    given = write_run(tmp_path / "open", small, seed=8, departures=departures.departures(small))
    found = judge([*three, given])
    assert any(failure.startswith("submission_division: found ") for failure in found.failures), found.failures


# Damage


@pytest.mark.parametrize("key", ["eval_accuracy", "seed", "global_batch_size", "run_start"])
def test_a_damaged_line_is_counted_and_fails(three: list[Path], key: str) -> None:
    lines = log(three[1]).read_text().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if f'"key": "{key}"' in line)
    lines[number] = lines[number][: len(lines[number]) // 2] + "\n"
    log(three[1]).write_text("".join(lines))
    found = judge(three)
    text = printed(found)
    assert not found.passes
    assert f"{name(three[1])}: :::MLLOG lines: found 1 unreadable, line {number + 1} (not JSON); wants" in text
    assert text.endswith("; 1 line was unreadable and ignored")


def test_damage_in_one_of_ten_is_no_traceback(tmp_path: Path) -> None:
    runs = ten_runs(tmp_path)
    with log(runs[2]).open("ab") as file:
        file.write(b':::MLLOG {"key": "eval_accuracy", \xff\x00\n:::MLLOG "global_batch_size"\n')
    found = judge(runs)
    assert not found.passes and found.damaged == 2
    assert "rcp: on track: 180,634 samples, mean of 10 runs" in printed(found), "rcp_checker itself would abort"
    assert "; 2 lines were unreadable and ignored" in printed(found).splitlines()[-1]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_log_fails_and_the_rest_is_judged(three: list[Path], share: float) -> None:
    lines = log(three[0]).read_text().splitlines(keepends=True)
    cut = int(len(lines) * share)
    log(three[0]).write_text("".join([*lines[:cut], lines[cut][:40]]))
    found = judge(three)
    text = printed(found)
    assert not found.passes and f"{name(three[0])}: run_stop: found none" in text
    assert "1 line was unreadable and ignored" in text.splitlines()[-1]
    assert found.reports[1].passes and found.reports[2].passes


# MLCommons' published logs


@pytest.mark.skipif(not PUBLISHED_LOGS.is_dir(), reason=f"the published logs are not there: {PUBLISHED_LOGS}")
def test_logs_of_two_systems_do_not_hold_together() -> None:
    given = [next(iter(sorted(system.glob("result_*.txt")))) for system in sorted(PUBLISHED_LOGS.iterdir())]
    found = submission.judge(given, "5.1.0")
    assert all(report.passes for report in found.reports)
    assert {"global_batch_size", "submission_org"} <= {failure.partition(":")[0] for failure in found.failures}
