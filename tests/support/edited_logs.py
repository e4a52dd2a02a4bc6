"""Lines of a full-size run's log, edited for tests, and the verdict on them beside the official checker's."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from mlperf_logging.compliance_checker import mlp_compliance
from submissions import NEWEST, TOKEN

from dev.support.benchmark_run import write_log
from llama31.mlperf.check import one_log as module
from llama31.mlperf.check.one_log import Report, check


@cache
def full_log(directory: Path) -> list[str]:
    """Lines of a full-size benchmark run's log."""
    return lines_of(write_log(directory / "full.log"))


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
    """Check such a log, compare the result with the official checker's, and return the report."""
    log = tmp_path / "spoilt.log"
    log.write_text("".join(lines), encoding="latin-1")
    report = check(log, ruleset)
    if report.is_closed and not report.damaged.count:
        assert report.is_accepted == officially_accepted(log, ruleset), "check must repeat the official verdict"
    return report


def officially_accepted(log: Path, ruleset: str) -> bool:
    """The official checker's verdict, by its own main function; a crash counts as a rejection."""
    mlp_compliance.enqueued_configs.clear()
    checker = mlp_compliance.make_checker("training", ruleset, quiet=False, werror=False)
    try:
        return mlp_compliance.main(str(log), f"training_{ruleset}/common.yaml", checker)[0]
    except (FileNotFoundError, TypeError, KeyError):
        return False


def assert_named(report: Report, *names: str) -> None:
    """The log fails, and the failures name these things."""
    text = "\n".join(map(str, report.failures))
    for name in names:
        assert name in text, f"a failure must name {name!r}; check says:\n" + "\n".join(module.lines(report))
    assert not report.passes


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
