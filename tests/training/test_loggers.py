"""TensorBoard's curve of a chain: one of all jobs, each step once."""

from pathlib import Path

import fiddle
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llama31.config import paths
from llama31.run_dir.start_point import Start
from llama31.training import loggers


@pytest.mark.parametrize(
    ("start", "steps", "expected"),
    [
        (Start("checkpoint", job=2, step=2), (3, 4), [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]),
        (Start(job=2), (1, 2), [(1, 2.0), (2, 2.0)]),  # the first job ended before its first checkpoint
    ],
    ids=["resumed", "started over"],
)
def test_a_later_job_replaces_what_an_interrupted_one_logged(
    start: Start, steps: tuple[int, ...], expected: list[tuple[int, float]], tmp_path: Path
) -> None:
    for number, (of_job, logged_by_job) in enumerate(((Start(), (1, 2, 3)), (start, steps)), 1):
        logger = fiddle.build(loggers.tensorboard(tmp_path / f"job-{number}", of_job))
        for step in logged_by_job:
            logger.log_metrics({"loss": float(number)}, step)
        logger.finalize("success")
    logged = EventAccumulator(str(tmp_path / paths.TENSORBOARD)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in logged] == expected
