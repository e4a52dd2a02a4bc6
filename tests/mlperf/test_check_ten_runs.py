"""`llama31 check` over ten logs: the verdict on a submission, of which one run may miss the target."""

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from judged_runs import judge, log, name, printed
from submissions import (
    NEWEST,
    TOKEN,
    edit,
    missed,
    officially_packaged,
    ten_runs,
    write_run,
)

from llama31.mlperf.check import submission

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rule_files_are_parsed_once")]


def test_ten_runs_hold_as_a_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ten_runs(tmp_path)
    assert submission.check(runs, NEWEST) == 0
    text = capsys.readouterr().out
    assert "rcp: accepted: 179,712 samples" in text
    assert "score: 29.250 minutes, mean without the fastest and the slowest\n" in text, "2 minutes an evaluation"
    assert text.endswith("verdict: pass as the 10 runs of a submission in the closed division, ruleset 6.1.0\n")


def test_ten_compressed_logs_get_the_official_verdict(tmp_path: Path) -> None:
    runs = ten_runs(tmp_path)
    for run in runs:
        log(run).write_bytes(gzip.compress(log(run).read_bytes()))
    assert "rcp: accepted: 179,712 samples" in printed(judge(runs))


Lines = list[dict[str, Any]]


def cut_after_last(key: str, lines: Lines) -> Lines:
    """The log of a run that was killed after its last line with this key."""
    return lines[: max(place for place, line in enumerate(lines) if line["key"] == key) + 1]


def without(key: str, lines: Lines, *, samples: int | None = None) -> Lines:
    """The log without a key's lines, or without only the line at `samples`."""
    return [
        line
        for line in lines
        if line["key"] != key or (samples is not None and line["metadata"].get("samples_count") != samples)
    ]


def with_loss(loss: float, samples: int, lines: Lines) -> Lines:
    """The log with another loss at one evaluation."""
    for line in lines:
        if line["key"] == "eval_accuracy" and line["metadata"]["samples_count"] == samples:
            line["value"] = loss
    return lines


def with_samples(wrong: int, samples: int, lines: Lines) -> Lines:
    """The log with a wrong count at one evaluation."""
    for line in lines:
        if line["key"] == "eval_accuracy" and line["metadata"]["samples_count"] == samples:
            line["metadata"]["samples_count"] = wrong
    return lines


MID_RUN, LAST = 5 * 12_288, 20 * 12_288


def within_the_last_evaluation(lines: Lines) -> Lines:
    """The log of a run that was aborted in its last evaluation and recorded that."""
    assert lines[-2]["key"] == "block_stop"
    return without("eval_accuracy", without("block_start", [*lines[:-2], lines[-1]], samples=LAST), samples=LAST)


def ten_with_one_missed(directory: Path, change: Callable[[Lines], Lines]) -> list[Path]:
    """Ten runs of which the fifth missed the target, its log changed."""
    runs = ten_runs(directory)
    missed(log(runs[4]), seed=104)
    lines = [json.loads(line.partition(TOKEN)[2]) for line in log(runs[4]).read_text().splitlines()]
    log(runs[4]).write_text("".join(TOKEN + json.dumps(line) + "\n" for line in change(lines)))
    return runs


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda lines: lines, "missed the target"),
        (partial(without, "run_stop"), "was killed: no run_stop"),
        (partial(cut_after_last, "eval_start"), "was killed: no run_stop"),
        (partial(cut_after_last, "eval_accuracy"), "was killed: no run_stop"),
        (partial(cut_after_last, "block_start"), "was killed: no run_stop"),
        (within_the_last_evaluation, "missed the target"),
    ],
)
def test_one_of_ten_may_miss_the_target(tmp_path: Path, change: Callable[[Lines], Lines], how: str) -> None:
    runs = ten_with_one_missed(tmp_path, change)
    found = judge(runs)
    text = printed(found)
    assert found.passes, text
    start = f"note: {name(runs[4])}: "
    assert f"{start}{how}; one run of a submission may, and counts as the slowest" in text
    assert all(f"{start}{finding}" in text for finding in found.reports[4].failures), (
        "excused failures are still reported"
    )
    assert found.minutes == pytest.approx(2 * (14 * 3 + 15 * 4 + 16) / 8), "the fastest and the one that missed are out"
    missed(log(runs[5]), seed=105)
    found = judge(runs)
    assert not found.passes and found.minutes is None
    assert "convergence: rejected: more than one run did not converge" in found.failures


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda lines: without("run_stop", with_loss(3.29, LAST, lines)), "run_stop: found none"),
        (partial(without, "eval_accuracy", samples=MID_RUN), "eval_accuracy: found 19 lines for 20 evaluations"),
        (
            lambda lines: without("eval_accuracy", cut_after_last("block_start", lines), samples=LAST),
            "eval_accuracy: found 19 lines for 20 evaluations",
        ),
        (
            lambda lines: without("block_stop", cut_after_last("eval_accuracy", lines), samples=LAST),
            "block_stop: found none after line",
        ),
        (partial(with_samples, 3 * 12_288, MID_RUN), "eval_accuracy: found samples_count 36864 in line"),
        (partial(without, "eval_stop", samples=MID_RUN), "wants eval_start and eval_stop in turn"),
        (lambda lines: [*lines, lines[-1]], "run_stop: found 2 lines"),
        (partial(without, "opt_name"), "opt_name: found none"),
    ],
)
def test_one_of_ten_may_be_wrong_as_mlcommons_accepts(
    tmp_path: Path, change: Callable[[Lines], Lines], named: str
) -> None:
    runs = ten_with_one_missed(tmp_path, change)
    assert officially_packaged([log(run) for run in runs], NEWEST, tmp_path / "tree")
    found = judge(runs)
    text = printed(found)
    assert found.passes and found.is_accepted, text
    assert f"note: {name(runs[4])}: fails; MLCommons' package checker accepts one such log of ten" in text
    assert named in text, "what is excused is still said"
    edit(log(runs[5]), "opt_name", lambda _: None)
    assert not officially_packaged([log(run) for run in runs], NEWEST, tmp_path / "tree")
    assert not judge(runs).passes, "two are too many"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (partial(with_loss, 3.29, LAST), "run_stop: found status aborted"),
        (partial(with_loss, 3.29, MID_RUN), "followed by more evaluations; wants the run to stop at 3.3"),
    ],
)
def test_one_of_ten_may_not_break_a_rule_of_ours(tmp_path: Path, change: Callable[[Lines], Lines], named: str) -> None:
    runs = ten_with_one_missed(tmp_path, change)
    assert officially_packaged([log(run) for run in runs], NEWEST, tmp_path / "tree")
    found = judge(runs)
    assert not found.excused and any(named in failure for failure in found.failures), printed(found)
    assert printed(found).endswith("; MLCommons' checkers accept them as a submission"), "ours is stricter"


def test_only_a_run_that_says_success_has_a_time(tmp_path: Path) -> None:
    runs = ten_runs(tmp_path)
    edit(log(runs[6]), "run_stop", lambda line: line | {"metadata": line["metadata"] | {"status": "aborted"}})
    found = judge(runs)
    assert not found.passes
    assert found.minutes == pytest.approx(2 * (14 * 3 + 15 * 5) / 8), "the longest counts as the slowest at any rate"
    edit(log(runs[0]), "run_stop", lambda line: line | {"metadata": line["metadata"] | {"status": "aborted"}})
    assert judge(runs).minutes is None


def test_a_run_is_as_far_as_its_last_loss(three: list[Path]) -> None:
    """A run killed after its last evaluation has still converged; a status does not make a run converge."""
    edit(log(three[0]), "run_stop", lambda _: None)
    assert "mean of 3 runs that reached the target" in printed(judge(three))
    edit(log(three[1]), "eval_accuracy", lambda line: line | {"value": line["value"] + 0.1})
    assert "mean of 2 runs that reached the target" in printed(judge(three))


@pytest.mark.parametrize(
    ("evaluations", "words"), [(14, "rejected: converges faster than the reference's minimum"), (20, "accepted")]
)
def test_ten_runs_too_fast_or_slow(tmp_path: Path, evaluations: int, words: str) -> None:
    found = judge(ten_runs(tmp_path, evaluations=[evaluations] * 10))
    assert found.convergence and found.convergence.text.startswith(words)
    assert found.passes == (words == "accepted")
    assert all(report.passes for report in found.reports), "each log on its own is valid"


def test_few_runs_too_fast_fail_and_a_single_one_does_not(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed=seed, evaluations=12) for seed in (1, 2)]
    found = judge(runs)
    assert not found.passes and "convergence: converges faster than the reference's minimum" in found.failures[0]
    assert judge(runs[:1]).passes
    assert "rcp: too early to say: 147,456 samples" in printed(judge(runs[:1]))
