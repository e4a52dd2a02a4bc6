"""`llama31 check` beside MLCommons' rule files, on hostile logs, on published ones, and on a user's mistakes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkout import PUBLISHED_LOGS
from edited_logs import KEYS, assert_named, changed, edited, officially_accepted
from mlperf_logging.compliance_checker import mlp_compliance
from submissions import NEWEST

from llama31 import rules
from llama31.common.errors import UserError
from llama31.mlperf.check import official
from llama31.mlperf.check import one_log as module
from llama31.mlperf.check.one_log import check

pytestmark = pytest.mark.usefixtures("rule_files_are_parsed_once")

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
    wordless = {test for test in of_values if official.as_text(test)[0].startswith("to pass")}
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

published = pytest.mark.skipif(
    not PUBLISHED_LOGS.is_dir(), reason=f"the published logs are not there: {PUBLISHED_LOGS}"
)
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
    return sorted(PUBLISHED_LOGS.glob("*/result_*.txt"))


@published
def test_all_published_logs_are_there() -> None:
    assert len(published_logs()) == 30, f"v5.1 has three systems' ten logs in {PUBLISHED_LOGS}"


@published
@pytest.mark.parametrize("log", published_logs(), ids=lambda log: f"{log.parent.name[:3]}-{log.stem}")
def test_a_published_log_holds_as_mlcommons_said(log: Path) -> None:
    report = check(log, "5.1.0")
    assert report.is_accepted == officially_accepted(log, "5.1.0") == report.passes, "\n".join(module.lines(report))
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
    note = "ruleset: accepted by --ruleset 5.1.0 and 6.0.0, which does not require the missing keys"
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
        ("", "4.1.0", "--ruleset 4.1.0: has no llama31_8b; use 5.1.0, 6.0.0, 6.1.0"),
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
