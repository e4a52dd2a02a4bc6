"""The summary of a run directory of another user, which may be damaged."""

import json
from pathlib import Path

import pytest

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.run_dir import summary
from llama31.run_dir.events import Outcome, Step
from llama31.run_dir.metrics_file import MetricsWriter
from llama31.settings import Settings

OUTCOME = Outcome("success", "target reached", 0, 2, 64)


def lines(run_dir: Path, outcome: Outcome = OUTCOME) -> list[str]:
    return list(summary.lines(run_dir, Settings(), outcome))


def test_figures(tmp_path: Path) -> None:
    metrics = MetricsWriter(tmp_path / paths.METRICS)
    for step in (1, 2):
        metrics.step_ended(Step(step, 32 * step, 4.0, 1e-4, 0.5))
    assert "training loss 4.0000, 524,288 tokens/s, wall time 1 s" in lines(tmp_path)


@pytest.mark.parametrize(
    "line", ['"text"', "[]", "{}", '{"event": "step"}', '{"event": "step", "seconds": "x"}', "[" * 10_000]
)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / paths.METRICS
    file.write_text(f"{line}\n")
    with pytest.raises(UserError) as error:
        lines(tmp_path)
    assert len(error.value.lines) == 1 and error.value.lines[0].startswith(f"{file}: damaged: ")


def test_steps_without_time(tmp_path: Path) -> None:
    step = {"event": "step", **vars(Step(1, 32, 4.0, 1e-4, 0.0))}
    (tmp_path / paths.METRICS).write_text(json.dumps(step) + "\n")
    assert "training loss 4.0000, 0 tokens/s, wall time 0 s" in lines(tmp_path)


def test_a_reason_cannot_steer_the_terminal(tmp_path: Path) -> None:
    assert lines(tmp_path, Outcome("aborted", "a\x1b[31mb", 1, 2, 64))[0] == "aborted: a?[31mb"
