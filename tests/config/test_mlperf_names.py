"""Names in settings and logs: text that MLCommons' rcp_checker would misread, and names of directories."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
from mlperf_logging.rcp_checker import rcp_checker

from dev.support.benchmark_run import SETTINGS, open_log
from llama31 import rules
from llama31.config import mlperf_names
from llama31.plan import validate
from llama31.run_dir.events import Outcome
from llama31.settings import Settings


def test_words_are_those_that_rcp_checker_searches_for() -> None:
    """In this benchmark's logs: train_samples is BERT's, and of run_stop it looks at the key as well."""
    searched = set(re.findall(r'"(\w+)" in str\b', inspect.getsource(rcp_checker.read_submission_file)))
    assert searched - {"train_samples", "run_stop"} == set(rules.RCP_WORDS)


@pytest.mark.parametrize("word", rules.RCP_WORDS)
@pytest.mark.parametrize("name", ["submission_org", "submission_platform", "tag"])
def test_a_word_that_rcp_checker_searches_for_is_refused(name: str, word: str) -> None:
    (line,) = validate.lines(replace(Settings(), **{name: f"my {word} box"}))
    assert line == (
        f"{name.upper()}=my {word} box: contains {word}, which MLCommons' rcp_checker takes for a line of the log; "
        f"{name.upper()}=my {word.replace('_', '-')} box works"
    )


def test_such_a_configuration_is_refused_by_its_files_name() -> None:
    (line,) = validate.lines(replace(Settings(), config_filename="/conf/config_global_batch_size_32.sh"))
    assert line.startswith("CONFIG_FILENAME=config_global_batch_size_32.sh: contains global_batch_size, which")
    assert line.endswith("; rename the file, such as config_global-batch-size_32.sh")
    assert validate.lines(replace(Settings(), config_filename="/global_batch_size/config.sh")) == [], (
        "a log has the name"
    )


def test_the_reason_of_an_end_is_logged_without_such_a_word(tmp_path: Path) -> None:
    """It may name a path, which is the user's choice."""
    log = open_log(tmp_path / "log")
    log.run_started(0)
    log.run_stopped(Outcome("aborted", "see /runs/global_batch_size/eval_accuracy/logs", 1, 0, 0))
    batch = rcp_checker.read_submission_file(tmp_path / "log", rules.RULESETS[-1], use_train_samples=False)[2]
    assert batch == SETTINGS.gbs
    assert "see /runs/global-batch-size/eval-accuracy/logs" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("org", "directory"),
    [
        ("Acme", "Acme"),
        ("Quanta Cloud Technology", "Quanta_Cloud_Technology"),
        (" Acme & Sons, Inc. ", "Acme_Sons_Inc"),
        (".hidden", "hidden"),
        ("Fa\u00df", "Fa"),
    ],
)
def test_directories_are_named_as_others_name_theirs(org: str, directory: str) -> None:
    assert mlperf_names.directory_name(org) == directory and mlperf_names.is_name(directory)
    works = f"SUBMISSION_ORG={org}: names no directory; package the runs with --org {directory}"
    assert list(mlperf_names.notes(replace(Settings(), submission_org=org))) == ([] if org == directory else [works])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Quanta Cloud Technology", "Quanta_Cloud_Technology", True),
        ("ACME Corp.", "acme-corp", True),
        ("Acme", "Acme Corp", False),
    ],
)
def test_names_are_compared_without_punctuation(one: str, other: str, same: bool) -> None:
    assert mlperf_names.are_same(one, other) == same
