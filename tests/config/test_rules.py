"""The benchmark's numbers equal those in mlperf-logging's own files, and each is defined in one place only."""

import ast
import math
import re
from pathlib import Path

import mlperf_logging
import pytest
import yaml
from checkout import REPOSITORY
from mlperf_logging.rcp_checker.rcp_checker import RCP_Checker, submission_runs

from llama31 import rules

PACKAGE = Path(mlperf_logging.__file__).parent
LATEST = rules.RULESETS[-1]


def test_reference_points_are_what_the_official_checker_computes() -> None:
    checker = RCP_Checker("training", LATEST, rules.BENCHMARK, verbose=False)
    checker.compute_rcp_stats()
    official = {record["BS"]: record for record in checker.rcp_data.values()}
    assert rules.REFERENCE_POINTS.keys() == official.keys()
    for size, point in rules.REFERENCE_POINTS.items():
        assert point.global_batch_size == size
        assert point.mean == round(official[size]["RCP Mean"])
        # It accepts a mean from this number on, so a whole number of sequences is rounded up.
        assert point.minimum == math.ceil(official[size]["Min Epochs"])
        hyperparameters = official[size]["Hyperparams"]
        assert point.learning_rate == hyperparameters["opt_base_learning_rate"]
        assert point.warmup_samples == hyperparameters["opt_learning_rate_warmup_samples"]


@pytest.mark.parametrize(
    ("global_batch_size", "mean"),
    [(8, 161_109), (16, 161_109), (24, 169_984), (32, 178_859), (48, 202_752), (128, 344_747), (256, 689_494)],
)
def test_the_reference_between_its_points_and_beyond(global_batch_size: int, mean: int) -> None:
    assert rules.reference_mean(global_batch_size) == mean
    assert rules.samples_available(global_batch_size) == 4 * mean


def test_a_submission_has_the_official_number_of_runs() -> None:
    assert submission_runs["training"][rules.BENCHMARK] == rules.RUNS_PER_SUBMISSION


def fixed_values(ruleset: str) -> dict[str, str]:
    """Key -> the value that the official rule file compares with `==`."""
    directory = PACKAGE / "compliance_checker" / f"training_{ruleset}"
    entries = yaml.safe_load((directory / f"closed_{rules.BENCHMARK}.yaml").read_text())
    found = {}
    for entry in (entry["KEY"] for entry in entries):
        match = re.fullmatch(r"v\['value'\] == (.+)", str(entry.get("CHECK", "")).strip())
        if match:
            found[entry["NAME"]] = match[1]
    return found


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_fixed_values_are_those_of_the_official_rule_file(ruleset: str) -> None:
    warmup = 512
    ours = {
        "max_sequence_length": rules.SEQUENCE_LENGTH,
        "opt_name": rules.OPTIMIZER_NAME,
        "opt_learning_rate_decay_steps": rules.MAX_STEPS - warmup,
        "opt_learning_rate_decay_schedule": rules.DECAY_SCHEDULE,
        "opt_adamw_beta_1": rules.ADAM_BETA1,
        "opt_adamw_beta_2": rules.ADAM_BETA2,
        "opt_adamw_epsilon": rules.ADAM_EPSILON,
        "opt_adamw_weight_decay": rules.WEIGHT_DECAY,
        "opt_gradient_clip_norm": rules.CLIP_NORM,
        "eval_samples": rules.EVAL_SAMPLES,
        "max_steps": rules.MAX_STEPS,
    }
    official = {
        key: value.replace("s['opt_learning_rate_warmup_steps']", str(warmup))
        for key, value in fixed_values(ruleset).items()
    }
    assert official.keys() == ours.keys()
    for key, value in official.items():
        difference = re.fullmatch(r"([\d_]+) - (\d+)", value)
        wanted = int(difference[1]) - int(difference[2]) if difference else ast.literal_eval(value)
        assert ours[key] == wanted, key


@pytest.mark.parametrize("ruleset", rules.RULESETS)
def test_target_is_that_of_the_official_rule_file(ruleset: str) -> None:
    file = PACKAGE / "compliance_checker" / f"training_{ruleset}" / f"closed_{rules.BENCHMARK}.yaml"
    assert f"(v['value'] <= {rules.TARGET})" in file.read_text()


def test_arithmetic() -> None:
    assert rules.allocated_steps(rules.ALLOCATED_SEQUENCES, 32) == 5120
    assert [rules.warmup_steps(rules.ALLOCATED_SEQUENCES, size) for size in (16, 32, 10**9)] == [1024, 512, 1]
    assert rules.end_learning_rate(8e-4) == 8e-5
    assert [rules.steps_between_evaluations(rules.EVAL_EVERY, size) for size in (1, 32, 96, 100)] == [
        12288,
        384,
        128,
        123,
    ]


def test_names_of_files() -> None:
    assert rules.token_file_name(rules.train_part_name(6)) == "c4-train.en_6_text_document"
    assert rules.token_file_name(rules.validation_name(91205)) == "c4-validation-91205-samples.en_text_document"
    assert rules.train_shard_name(768) == "c4-train.00768-of-01024.json.gz"
    assert rules.validation_shard_name(0) == "c4-validation.00000-of-00008.json.gz"


NUMBERS = {
    rules.EVAL_EVERY,
    rules.MAX_STEPS,
    rules.VALIDATION_DOCUMENTS,
    rules.VALIDATION_TOKENS,
    rules.ALLOCATED_SEQUENCES,
    *(number for point in rules.REFERENCE_POINTS.values() for number in (point.mean, point.minimum)),
}
"""The numbers that are nothing but the benchmark's; 1024, say, may mean many things."""


def test_numbers_are_only_in_rules() -> None:
    """config.sh repeats the defaults, and tests/config/test_settings.py checks that they are equal."""
    sources = [REPOSITORY / "pretrain_llama31.py", *REPOSITORY.glob("llama31/**/*.py"), *REPOSITORY.glob("dev/**/*.py")]
    sources.remove(Path(rules.__file__))
    for source in sources:
        constants = {node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)}
        assert not {value for value in constants if type(value) is int} & NUMBERS, source
    scripts = [REPOSITORY / "run_llama31.sh", *REPOSITORY.glob("utils/**/*.sh"), *REPOSITORY.glob("dev/**/*.sh")]
    for script in scripts:
        assert not {int(number) for number in re.findall(r"\d+", script.read_text())} & NUMBERS, script


def test_only_the_benchmarks_model_has_a_reference_point() -> None:
    assert rules.reference_point(rules.SIZE, 32) is rules.REFERENCE_POINTS[32]
    assert rules.reference_point(rules.SIZE, 33) is None
    assert rules.reference_point("demo", 32) is None
