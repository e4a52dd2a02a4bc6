"""Reference convergence points: numbers and verdicts equal those of rcp_checker; early verdicts are printed."""

import csv
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from checkout import SHARED
from mlperf_logging.rcp_checker import rcp_checker
from submissions import NEWEST, edit, missed

from dev.support.benchmark_run import SETTINGS, losses, write_log
from llama31 import rules
from llama31.mlperf.check import convergence, submission
from llama31.mlperf.check.convergence import Points, Verdict
from llama31.mlperf.log.reader import read

published = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the published logs are not there: {SHARED}")


def official(logs: Sequence[Path], points: Points) -> Verdict:
    """The verdict on logs in files."""
    return convergence.official([read(log)[0] for log in logs], points)


@pytest.fixture(scope="module")
def points() -> Points:
    return Points(NEWEST)


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_points_are_those_of_the_official_checker(ruleset: str) -> None:
    checker = rcp_checker.RCP_Checker("training", ruleset, rules.BENCHMARK, verbose=False)
    assert {record["BS"] for record in checker.pruned_rcp_data.values()} == set(rules.REFERENCE_POINTS)
    for record in checker.pruned_rcp_data.values():
        found = Points(ruleset).reference(record["BS"])
        assert found and found.mean == record["RCP Mean"]
        assert found.minimum() == pytest.approx(record["Min Epochs"], abs=0.01), "the t-test, solved, is its search"
        rule = rules.REFERENCE_POINTS[record["BS"]]
        assert (round(found.mean), round(found.minimum())) == pytest.approx((rule.mean, rule.minimum), abs=1)
        assert f"ruleset {ruleset}" in str(found), "say whose points these are"


@pytest.mark.parametrize(("batch", "low", "high"), [(24, 16, 32), (36, 32, 64), (48, 32, 64), (120, 96, 128)])
def test_between_two_points_it_interpolates_as_the_official_checker(
    points: Points, batch: int, low: int, high: int
) -> None:
    checker = rcp_checker.RCP_Checker("training", NEWEST, rules.BENCHMARK, verbose=False)
    below, above = (checker._find_rcp(size, convergence.PASS) for size in (low, high))
    _, official = checker._create_interp_rcp(batch, below, above)
    found = points.reference(batch)
    assert found and found.mean == official["RCP Mean"]
    assert found.minimum() == pytest.approx(official["Min Epochs"], abs=0.01)
    assert f"interpolated from {low} and {high}" in str(found)


def test_outside_of_the_points(points: Points) -> None:
    smallest, largest = min(rules.REFERENCE_POINTS), max(rules.REFERENCE_POINTS)
    below = points.reference(smallest // 2)
    assert below and below.global_batch_size == smallest and "the smallest batch size" in str(below)
    assert points.reference(largest + 8) is None


@pytest.mark.parametrize(
    ("converged", "others", "words", "holds"),
    [
        ([], [98_304], "too early to say: no run has reached the target yet; the longest is at 98,304 samples", True),
        ([], [245_760], "slower than the reference: no run has reached the target yet", True),
        ([172_032], [], "too early to say: 172,032 samples, mean of 1 run that reached the target; less than", True),
        (
            [147_456],
            [],
            "too early to say: 147,456 samples, mean of 1 run that reached the target; unlikely by",
            True,
        ),
        ([159_744, 159_744], [98_304] * 8, "converges faster than the reference's minimum: would be rejected", False),
        (
            [159_744, 159_744],
            [172_032] * 2,
            "too early to say: 172,032 samples, mean of 2 runs that reached the target and 2 runs as far without it",
            True,
        ),
        ([184_320], [12_288], "on track: 184,320 samples, mean of 1 run that", True),
        ([172_032, 184_320], [], "on track: 178,176 samples, mean of 2 runs that", True),
        ([172_032, 172_032], [], "too early to say: 172,032 samples, mean of 2 runs", True),
        ([159_744, 159_744], [], "converges faster than the reference's minimum: would be rejected: 159,744", False),
        ([172_032] * 9, [], "converges faster than the reference's minimum: would be rejected: 172,032", False),
        ([208_896, 208_896], [], "slower than the reference: 208,896 samples, mean of 2 runs", True),
    ],
)
def test_early_verdicts(
    points: Points, converged: Sequence[int], others: Sequence[int], words: str, holds: bool
) -> None:
    verdict = points.early(32, converged, others)
    assert verdict.text.startswith(words) and verdict.passes == holds, verdict
    assert verdict.scaling is None, "the score is not scaled before the official verdict"


def test_an_early_verdict_where_there_is_no_point(points: Points) -> None:
    verdict = points.early(256, [400_000], [])
    assert not verdict.passes and "no point for a batch as large as 256" in verdict.text


def test_early_verdicts_reject_the_reference_as_often_as_the_official_test(points: Points) -> None:
    """Fewer than 10% of pairs of the reference's own runs look too fast, as 5% may."""
    record = points._checker._find_rcp(128, convergence.PASS)
    runs = record["Epochs to converge"]
    pairs = [(a, b) for number, a in enumerate(runs) for b in runs[number + 1 :]]
    rejected = sum(not points.early(128, pair, []).passes for pair in pairs)
    assert 0 < rejected / len(pairs) < 0.1, f"{rejected} of {len(pairs)} pairs"


def test_runs_side_by_side_are_not_rejected_for_the_fastest_of_them(points: Points) -> None:
    """Ten of the reference's runs start together and are judged after each evaluation until the last one ends."""
    runs = points._checker._find_rcp(32, convergence.PASS)["Epochs to converge"]
    chance, campaigns, rejected = random.Random(1), 100, 0
    for _ in range(campaigns):
        ten = chance.sample(runs, 10)
        for now in sorted({*ten})[:-1]:
            others = [now for samples in ten if samples > now]
            if not points.early(32, [samples for samples in ten if samples <= now], others).passes:
                rejected += 1
                break
    assert rejected < 0.1 * campaigns, f"{rejected} of {campaigns} look too fast before their end"


# The official verdict on ten logs

SLOWER = "slower than the reference, no rule against it#"


def logs(directory: Path, evaluations: Sequence[int], batch: int = 32) -> list[Path]:
    settings = replace(SETTINGS, gbs=batch)
    return [
        write_log(directory / f"{number}.log", settings, seed=number, validation_losses=losses(evaluations=count))
        for number, count in enumerate(evaluations)
    ]


@pytest.mark.parametrize(
    ("batch", "evaluations", "words", "holds"),
    [
        (
            32,
            [14, 15] * 5,
            "accepted: 178,176 samples, mean of 8 runs without the fastest and the slowest; faster",
            True,
        ),
        (
            32,
            [14] * 4 + [15] * 6,
            "accepted: 179,712 samples, mean of 8 runs without the fastest and the slowest#",
            True,
        ),
        (
            32,
            [30] * 10,
            "accepted: 368,640 samples, mean of 8 runs without the fastest and the slowest; " + SLOWER,
            True,
        ),
        (32, [14] * 10, "rejected: converges faster than the reference's minimum: 172,032 samples", False),
        (36, [14] * 10, "rejected: converges faster than the reference's minimum: 172,368 samples", False),
        (36, [15] * 10, "accepted: 184,680 samples", True),
        (8, [13] * 10, "accepted: 159,744 samples", True),
        (8, [12] * 10, "rejected: converges faster than the reference's minimum: 147,456 samples", False),
        (256, [40] * 10, "rejected: the reference has no point for a batch as large as 256", False),
    ],
)
def test_official_verdicts(
    tmp_path: Path, points: Points, batch: int, evaluations: Sequence[int], words: str, holds: bool
) -> None:
    found = logs(tmp_path, evaluations, batch)
    verdict = official(found, points)
    assert f"{verdict.text}#".startswith(words) and verdict.passes == holds, verdict
    for number, log in enumerate(found):
        log.rename(tmp_path / f"result_{number}.txt")
    passed, _, scaling = rcp_checker.check_directory(
        str(tmp_path),
        "training",
        NEWEST,
        verbose=False,
        bert_train_samples=False,
        rcp_pass=convergence.PASS,
        set_scaling=True,
    )
    assert (verdict.passes, verdict.scaling or scaling) == (passed, scaling), "the verdict is rcp_checker's own"


def test_one_run_may_miss_the_target_and_two_may_not(tmp_path: Path, points: Points) -> None:
    found = logs(tmp_path, [15] * 10)
    missed(found[3], seed=3)
    assert official(found, points).text.startswith("accepted: 184,320 samples")
    missed(found[4], seed=4)
    assert official(found, points).text == "rejected: more than one run did not converge"


def test_logs_without_a_batch_size_are_rejected(tmp_path: Path, points: Points) -> None:
    found = logs(tmp_path, [15] * 10)
    for log in found:
        edit(log, "global_batch_size", lambda _: None)
    assert official(found, points).text == "rejected: the logs have no common global batch size"


@pytest.mark.parametrize("metadata", [{}, {"samples_count": "many"}, {"samples_count": None}])
def test_logs_that_end_the_official_checker_are_no_traceback(tmp_path: Path, points: Points, metadata: dict) -> None:
    found = logs(tmp_path, [15] * 10)
    edit(found[2], "eval_accuracy", lambda line: line | {"metadata": metadata})
    verdict = official(found, points)
    assert not verdict.passes and verdict.text.startswith("not judged: rcp_checker fails on"), verdict


def test_logging_is_left_as_it_was(tmp_path: Path, points: Points) -> None:
    found, root = logs(tmp_path, [15] * 10), logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        official(found, points)
        assert root.handlers == [] and root.manager.disable == logging.NOTSET
    finally:
        root.handlers = handlers


# MLCommons' published logs


@published
@pytest.mark.parametrize("directory", sorted((SHARED / "logs").glob("*")), ids=lambda path: path.name[:3])
def test_published_verdicts_and_scores_are_mlcommons(directory: Path) -> None:
    """Scaling as the scaling.json that MLCommons published; score as in its table of results."""
    found = submission.judge(sorted(directory.glob("result_*.txt")), "5.1.0")
    assert found.passes and found.convergence and found.convergence.scaling and found.minutes
    scaling = directory / "scaling.json"
    expected = json.loads(scaling.read_text())["scaling_factor"] if scaling.exists() else 1.0
    assert found.convergence.scaling == pytest.approx(expected, rel=1e-9)
    with (SHARED / "published_v5.1.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if f"{row['org']}__{row['system']}" == directory.name)
    assert found.minutes * found.convergence.scaling == pytest.approx(float(row["score_scaled_min"]), abs=0.001)
