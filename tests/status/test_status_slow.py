"""`python3 -m llama31 status` names slow ranks of a run that trains, not those of one that has ended."""

from pathlib import Path

from status_rows import row, write_run

from llama31.config import paths
from llama31.run_dir import record
from llama31.run_dir.events import RankTime, RankTimes
from llama31.run_dir.metrics_file import MetricsWriter


def test_slow_ranks_are_named(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", 1)
    ranks = (RankTime(11, "n2", "GPU 3", 0.25), RankTime(4, "n1", "GPU 4", 0.23), RankTime(2, "n1", "GPU 2", 0.2))
    metrics = MetricsWriter(run_dir / paths.METRICS)
    slow = "slow: rank 11 (n2, GPU 3): 1.25 x, rank 4 (n1, GPU 4): 1.15 x the median rank"
    with record.claim(run_dir):
        assert "slow" not in row(run_dir)[0]
        metrics.ranks_timed(RankTimes(390, 10, 0.2, ranks))
        assert row(run_dir)[0].endswith(f"ago  {slow}")
        metrics.ranks_timed(RankTimes(400, 10, 0.2, ranks[2:]))
        assert "slow" not in row(run_dir)[0], "only the newest comparison counts"
        metrics.ranks_timed(RankTimes(410, 10, 0.2, ranks))
    assert "slow" not in row(run_dir)[0]
