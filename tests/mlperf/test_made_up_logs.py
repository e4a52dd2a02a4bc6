"""`llama31 check` over sets of ten made-up logs, each with something unusual, beside MLCommons' package checker.

All sets are judged as plain files, compressed, and within a job's output.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from changed_logs import FORMS, Logs, Record, event, lacking, late, said, with_one_more
from mlperf_logging.rcp_checker import rcp_checker
from submissions import NEWEST, edit, ten_runs, write_run

from dev.support.benchmark_run import SETTINGS
from llama31 import rules
from llama31.config import paths
from llama31.mlperf.check import submission

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rule_files_are_parsed_once")]

INTERVAL = 12_288


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten consistent logs, to be copied."""
    directory = tmp_path_factory.mktemp("ten")
    for number, run in enumerate(ten_runs(tmp_path_factory.mktemp("runs"))):
        shutil.copyfile(run / paths.MLPERF_LOG, directory / f"result_{number}.txt")
    return directory


@pytest.fixture(params=FORMS)
def logs(ten: Path, tmp_path: Path, request: pytest.FixtureRequest) -> "Logs":
    return Logs(shutil.copytree(ten, tmp_path / "logs"), request.param)


# Settings


def test_settings_after_run_start_are_compared(logs: Logs) -> None:
    logs.change(late)
    logs.change(said("opt_base_learning_rate", 1e-3), 9)
    logs.change(said("opt_end_learning_rate", 1e-4), 9)
    found, text = logs.judge(accepted=True)
    assert not found.passes and "settings that the logs state are the same" not in text
    assert "opt_base_learning_rate: found 0.0008 in 9 logs; 0.001 in result_9.txt; wants the same in all logs" in text
    assert text.endswith("fail for 2 reasons; MLCommons' checkers accept them as a submission")


def test_settings_after_run_start_may_be_the_same(logs: Logs) -> None:
    logs.change(late)
    found, text = logs.judge(accepted=True)
    assert found.passes and "passes: the 33 settings that the logs state are the same" in text


def test_results_are_no_settings(logs: Logs) -> None:
    """What Primus logs: how long the run took, and its samples, after the end; throughput at each evaluation."""

    def with_results(records: list[Record]) -> list[Record]:
        end, samples = records[-1], records[-1]["metadata"]["samples_count"]
        results = [event(end, "run_duration", f"{samples} s"), event(end, "train_samples", samples)]
        measured = event(end, "throughput_now", samples, samples=samples)
        return [*lacking("train_samples")(records)[:-1], measured, end, *results]

    logs.change(with_results)
    found, text = logs.judge(accepted=True)
    assert found.passes, text


def test_nothing_is_the_same_that_no_log_states(logs: Logs) -> None:
    """Rulesets before 6.1.0 do not ask for these."""
    logs.change(lacking("tensor_parallelism"))
    logs.change(lacking("config_filename"))
    _, text = logs.judge(accepted=True, ruleset="6.0.0")
    assert "note: not compared, since no log states them: tensor_parallelism, config_filename\n" in text
    assert "passes: the 31 settings that the logs state are the same" in text


def test_no_verdict_on_seeds_and_evaluations_that_no_log_has(logs: Logs) -> None:
    for key in ("seed", "eval_start", "eval_accuracy", "eval_stop"):
        logs.change(lacking(key))
    _, text = logs.judge(accepted=False)
    assert "seeds differ" not in text and "the same numbers of samples" not in text
    single = "\n".join(submission.lines(submission.judge(logs.files[:1], NEWEST)))
    assert "no evaluation was skipped" not in single


# What MLCommons accepts


def test_one_of_ten_that_does_not_comply_is_accepted(logs: Logs) -> None:
    logs.change(lacking("opt_name"), 4)
    found, text = logs.judge(accepted=True)
    assert found.passes and "pass as the 10 runs of a submission" in text, text
    assert "note: result_4.txt: opt_name: found none; wants exactly one line" in text


def test_two_of_ten_that_do_not_comply_are_not(logs: Logs) -> None:
    logs.change(lacking("opt_name"), 4, 5)
    found, text = logs.judge(accepted=False)
    assert not found.passes and text.endswith("; MLCommons' checkers do not accept them as a submission")


def test_one_of_ten_without_a_seed_is_not_accepted(logs: Logs) -> None:
    """The compliance checker accepts one such log of ten, the seed checker rejects it."""
    logs.change(lacking("seed"), 4)
    found, _ = logs.judge(accepted=False)
    assert not found.passes


def test_a_seed_that_one_log_has_twice_is_not_accepted(logs: Logs) -> None:
    """This happens if a run restarts before its first step; the compliance checker only warns."""
    logs.change(lambda records: [one for record in records for one in [record] * (1 + (record["key"] == "seed"))], 4)
    found, text = logs.judge(accepted=False)
    assert not found.passes
    rejected = "seed: found a line that MLCommons' seed checker rejects in result_4.txt"
    assert f"fails: {rejected}; wants one seed, with" in text


def test_one_of_ten_without_a_batch_size_does_not_hold(logs: Logs) -> None:
    """rcp_checker accepts it where it is the first that glob finds, which no one can rely on."""
    logs.change(lacking("global_batch_size"), 4)
    found = submission.judge(logs.files, NEWEST)
    assert not found.passes and not found.excused


@pytest.mark.parametrize("status", ["", "on-prem", None])
def test_a_status_that_no_ruleset_checks_is_a_note(logs: Logs, status: object) -> None:
    logs.change(said("submission_status", status))
    found, text = logs.judge(accepted=True)
    line = logs.line(0, "submission_status")
    assert found.passes
    assert f"note: submission_status: {json.dumps(status)} in line {line}, not one of onprem, cloud, preview," in text


def test_a_loss_that_is_null_is_not_accepted(logs: Logs) -> None:
    """The official checker ends with TypeError at it, and so does the package checker over all ten."""

    def nulled(records: list[Record]) -> list[Record]:
        first = next(record for record in records if record["key"] == "eval_accuracy")
        return [{**record, "value": None} if record is first else record for record in records]

    logs.change(nulled, 4)
    found, text = logs.judge(accepted=False)
    assert not found.passes and not found.reports[4].is_accepted
    assert f"result_4.txt: eval_accuracy: found null in line {logs.line(4, 'eval_accuracy')}; wants a number" in text
    single = "\n".join(submission.lines(submission.judge(logs.files[4:5], NEWEST)))
    assert single.endswith("fails for 1 reason; the official checker does not accept the log")


def test_losses_that_are_no_numbers_are_not_said_to_be_missing(logs: Logs) -> None:
    logs.change(said("eval_accuracy", None), 4)
    _, text = logs.judge(accepted=False)
    first = logs.line(4, "eval_accuracy")
    assert f"result_4.txt: eval_accuracy: found null in line {first}; wants a number above 0" in text
    assert "wants at least one line" not in text


def test_a_sparser_cadence_is_a_reading_of_ours(logs: Logs) -> None:
    """As six systems of v5.1 and v6.0 have it, which MLCommons accepted."""

    def every_second(records: list[Record]) -> list[Record]:
        last = records[-1]["metadata"]["samples_count"]
        kept = lambda count: count % (2 * INTERVAL) == 0 or count == last  # noqa: E731
        keys = ("eval_start", "eval_accuracy", "eval_stop")
        return [one for one in records if one["key"] not in keys or kept(one["metadata"]["samples_count"])]

    logs.change(every_second)
    found, text = logs.judge(accepted=True)
    assert not found.passes and "wants an evaluation every 12,288" in text
    assert text.endswith("; MLCommons' checkers accept them as a submission")
    few = "\n".join(submission.lines(submission.judge(logs.files[:3], NEWEST)))
    assert few.endswith("; the official checker accepts 3 of the 3 logs")


# What is unusual


def test_an_additional_evaluation_is_no_cadence(logs: Logs) -> None:
    logs.change(with_one_more)
    found, text = logs.judge(accepted=True)
    assert found.passes
    assert "note: eval_start: 1 additional evaluation, after 384 training sequences\n" in text
    assert "evaluations every" not in text


def test_the_log_that_is_evaluated_otherwise_is_named(logs: Logs) -> None:
    logs.change(with_one_more, 6)
    _, text = logs.judge(accepted=True)
    where = "one after 384 samples, where result_6.txt"
    assert "fails: eval_start: found one after 384 samples, where " in text and where not in text
    assert "has 12288, in result_6.txt; wants the same in all logs" in text


def test_counts_of_losses_that_lag_are_named(logs: Logs) -> None:
    """As in AMD's, TTA's and MiTAC's logs."""

    def lagging(records: list[Record]) -> list[Record]:
        for record in records:
            if record["key"] == "eval_accuracy":
                record["metadata"]["samples_count"] -= 32
        return records

    logs.change(lagging)
    found, text = logs.judge(accepted=True)
    words = "but 32 less; samples to converge are those of eval_accuracy, as rcp_checker counts them"
    assert found.passes and words in text
    assert "rcp: accepted: 179,680 samples" in text


def test_a_loss_spike_is_named(logs: Logs) -> None:
    def spiked(records: list[Record]) -> list[Record]:
        for record in records:
            if record["key"] == "eval_accuracy" and record["metadata"]["samples_count"] == 10 * INTERVAL:
                record["value"] = 5.89
        return records

    logs.change(spiked, 3)
    found, text = logs.judge(accepted=True)
    assert found.passes
    assert (
        "note: result_3.txt: eval_accuracy: rises from 3.89 to 5.89 after 122,880 training sequences, "
        "and is at 3.69 again after 135,168\n"
    ) in text


def test_a_misspelt_key_is_named(logs: Logs) -> None:
    """As in AMD's logs of v6.0; the rulesets that accept them are named beside another fault."""
    wrong = "lowest_numerical_precision_linear"
    logs.change(
        lambda records: [
            {**record, "key": wrong} if record["key"] == "lowest_numerical_precision_in_linear" else record
            for record in lacking("lowest_numerical_precision_in_attn")(records)
        ]
    )
    logs.change(said("init_checkpoint_step", 5))
    _, text = logs.judge(accepted=False)
    hint = f"found none (line {logs.line(0, wrong)} has {wrong}); wants exactly one line"
    assert f"lowest_numerical_precision_in_linear: {hint}" in text
    assert "lowest_numerical_precision_in_attn: found none; wants" in text
    assert "note: ruleset: accepted by --ruleset 5.1.0 and 6.0.0, which does not require the missing keys" in text
    assert "init_checkpoint_step: found 5; wants 0" in text


def test_a_misspelt_end_is_named(logs: Logs) -> None:
    logs.change(
        lambda records: [{**one, "key": "run_stopp"} if one["key"] == "run_stop" else one for one in records], 0, 1
    )
    _, text = logs.judge(accepted=False)
    assert f"killed or is still running (line {logs.line(0, 'run_stopp')} has run_stopp) in result_0.txt" in text


def test_a_second_run_in_a_file_is_one_reason(logs: Logs) -> None:
    """The first was killed, and its successor logged to the same file."""
    logs.change(lambda records: [*records[: len(records) // 2], *records], 4)
    logs.change(lambda records: [*records[: len(records) // 2], *records], 5)
    found, text = logs.judge(accepted=False)
    line = logs.line(4, "cache_clear", 1)
    assert f"fails: cache_clear: found the second run begins in line {line} in result_4.txt; the second" in text
    assert [len(report.failures) for report in found.reports] == [0] * 4 + [1, 1] + [0] * 4
    others = [line for line in text.splitlines() if line.startswith("fails: ") and "second run" not in line]
    assert all(line.startswith("fails: convergence") for line in others), f"name no consequences: {others}"


@pytest.mark.parametrize("length", [10, 40], ids=["few settings", "before the first step"])
def test_a_second_run_after_one_that_never_trained(logs: Logs, length: int) -> None:
    """The first ended while it logged its settings, or soon after."""
    logs.change(lambda records: [*records[:length], *records], 4)
    _, text = logs.judge(accepted=False)
    (fails,) = [line for line in text.splitlines() if line.startswith("fails: ")]
    wanted = f"the second run begins in line {logs.line(4, 'cache_clear', 1)}"
    assert fails.startswith(f"fails: result_4.txt: cache_clear: found {wanted}"), fails


def test_two_files_of_two_runs_have_nothing_to_compare(logs: Logs) -> None:
    logs.change(lambda records: [*records, *records], 0, 1)
    text = "\n".join(submission.lines(submission.judge(logs.files[:2], NEWEST)))
    assert "seeds differ" not in text and "are the same" not in text


def test_repeated_lines_are_no_second_run(logs: Logs) -> None:
    """As eight ranks of AMD's write them."""
    logs.change(lambda records: [*records[:2] * 8, *records[2:]])
    found, text = logs.judge(accepted=True)
    assert found.passes and "second run" not in text


# Lines that rcp_checker takes for others


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("config_filename", "config_global_batch_size_32.sh", "the batch size"),
        ("submission_platform", "eval_error box", "the samples to converge"),
        ("config_filename", "submission_benchmark.sh", "the benchmark"),
    ],
)
def test_a_word_that_rcp_checker_searches_for_is_named(logs: Logs, key: str, value: str, taken: str) -> None:
    word = next(word for word in rules.RCP_WORDS if word in value)
    logs.change(said(key, value))
    found, text = logs.judge(accepted=False)
    assert not found.passes
    line = f"{key}: found {word} in line {logs.line(0, key)}; wants a line without this word, from which rcp_checker"
    assert f"fails: all 10 logs: {line} takes {taken}" in text


def test_a_word_without_effect_is_a_note(logs: Logs) -> None:
    """A later line of the right key overrides it."""
    logs.change(said("submission_platform", "box for global_batch_size 32"))
    found, text = logs.judge(accepted=True)
    assert found.passes
    assert f"note: submission_platform: global_batch_size in line {logs.line(0, 'submission_platform')};" in text


def test_statistics_with_such_a_word_are_looked_at(logs: Logs) -> None:
    def with_statistics(records: list[Record]) -> list[Record]:
        return [*records[:-1], event(records[-1], "tracked_stats", {"eval_accuracy": 3.0}, step=1), records[-1]]

    logs.change(with_statistics, 2)
    found, text = logs.judge(accepted=False)
    assert not found.passes
    assert f"result_2.txt: tracked_stats: found eval_accuracy in line {logs.line(2, 'tracked_stats', -1)};" in text


def test_metadata_may_be_an_empty_text(logs: Logs) -> None:
    """As in tinygrad's logs."""
    logs.change(lambda records: [{**one, "metadata": ""} if one["key"] == "opt_name" else one for one in records])
    found, _ = logs.judge(accepted=True)
    assert found.passes


# Effects besides the verdict


def test_nothing_on_disk_is_changed(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """rcp_checker removes scaling.json of the directory that it is given, and of / if it is given none."""
    cleared: list[str] = []
    opened: list[str] = []
    stock = rcp_checker.read_submission_file

    def reading(file: str, *rest: Any) -> Any:
        opened.append(file)
        return stock(file, *rest)

    monkeypatch.setattr(rcp_checker.RCP_Checker, "_reset_results_scaling", lambda _, path: cleared.append(path))
    monkeypatch.setattr(rcp_checker, "read_submission_file", reading)
    directory = logs.files[0].parent
    (directory / "scaling.json").write_text("{}")
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in directory.iterdir()}
    found = submission.judge(logs.files, NEWEST)
    assert list(submission.lines(found)) and found.passes
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in directory.iterdir()} == before
    assert cleared and not {"", str(directory)} & set(cleared), "rcp_checker gets a directory of its own"
    assert len(opened) == 10, "each log is read once by rcp_checker"


def test_lines_over_many_systems_can_be_read(tmp_path: Path) -> None:
    """Ten logs of each of 15 systems, which have words of their own."""
    log = write_run(tmp_path / "run", seed=1) / paths.MLPERF_LOG
    files = []
    for number in range(150):
        system = f"An-organisation-with-a-long-name__system-{number // 10}"
        files.append(tmp_path / system / f"result_{number % 10}.txt")
        files[-1].parent.mkdir(exist_ok=True)
        shutil.copyfile(log, files[-1])
    for number, file in enumerate(files[::10]):
        edit(file, "submission_org", lambda line, number=number: line | {"value": f"Organisation {number} " + "x" * 90})
        edit(file, "submission_platform", lambda line, number=number: line | {"value": f"{number}xBox"})
    lines = list(submission.lines(submission.judge(files, NEWEST)))
    assert max(map(len, lines)) <= 700, max(lines, key=len)
    (line,) = [line for line in lines if line.startswith("fails: submission_platform")]
    assert re.search(r"; \d+ more values; wants the same in all logs$", line), line


def test_the_settings_of_made_up_runs_are_the_benchmarks() -> None:
    assert SETTINGS.gbs == 32, "figures above are for this batch size"
