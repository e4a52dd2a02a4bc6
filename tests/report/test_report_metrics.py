"""What the report reads from a run's metrics."""

from pathlib import Path

from llama31.report import logs
from llama31.run_dir.events import Saved
from llama31.run_dir.metrics_file import MetricsWriter


def test_a_save_counts_for_as_long_as_training_waited(tmp_path: Path) -> None:
    """The rest of a save in the background is within the time of steps, and must not count twice."""
    file = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(file)
    writer.checkpoint_saved(Saved(2, 8, "/c/2", 100, seconds=5.0))
    writer.checkpoint_saved(Saved(4, 16, "/c/4", 100, seconds=5.0, blocked=0.5))
    metrics = logs.read_metrics(file, lambda size: None)
    assert list(metrics.checkpoints.value) == [5.0, 0.5]
    assert metrics.damages.count == 0
