"""What each node of a job does before its ranks, on a real Slurm of two nodes: copies of the data, caches."""

import re
from pathlib import Path
from typing import Any

import oracle
import pytest
from cluster import Cluster
from runs import CUT_RUN

from dev.support.submitted import submit
from llama31.config import paths
from llama31.data import node_copy
from llama31.mlperf.check import submission
from llama31.run_dir.events import BAD_INPUT

pytestmark = pytest.mark.timeout(900)
TWO_NODES = {**CUT_RUN, "PARTITION": "debug", "NNODES": 2, "EVAL_EVERY": 8, "TARGET": 100}
ON_N2 = 'if [ "$SLURMD_NODENAME" = n2 ]; then {}; fi'


def logged_cache_clear(run_dir: Path) -> list[bool]:
    """The values of cache_clear in a run's log."""
    return [
        event["value"] for event in oracle.mlperf_events(run_dir / paths.MLPERF_LOG) if event["key"] == "cache_clear"
    ]


@pytest.mark.slow
def test_each_node_copies_and_clears_before_the_ranks_start(
    cluster: Cluster, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    """The nodes of the tests share a disk, so the second one waits for the first one's copies."""
    cleared, copies = tmp_path / "cleared", tmp_path / "it's $HOME" / "copies"
    asked = {
        "COPY_DATA_TO": copies,
        "CLEAR_CACHES": 1,
        "CLEAR_CACHES_COMMAND": f"echo \"$SLURMD_NODENAME\" >>'{cleared}'",
        "JOB_DIR": tmp_path / "runs",
        "TMP_NPY_INDEX": tmp_path / "index",
    }
    (run,) = submit(cluster, {**tiny_data, **TWO_NODES, **asked})
    job = run.ended(run.jobs[0])
    assert job.exit_code == 0, job.printed + job.logs()
    assert len(re.findall(r"^n[12]: copied and verified ", job.printed, re.MULTILINE)) == 1
    assert len(re.findall(r"^n[12]: .*copies of an earlier run are used$", job.printed, re.MULTILINE)) == 1
    names = {path.name for path in copies.iterdir()} - {node_copy.LOCK}
    assert names == {path.name for path in Path(tiny_data["PREPROCESSED_PATH"]).iterdir()}
    assert sorted(cleared.read_text().split()) == ["n1", "n2"]
    assert logged_cache_clear(job.run_dir) == [True]
    assert submission.check([job.run_dir], "6.1.0") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (
            {"CLEAR_CACHES": 1, "CLEAR_CACHES_COMMAND": ON_N2.format("echo no sudo; exit 1")},
            "n2: CLEAR_CACHES=1: the command failed with exit code 1: no sudo; set CLEAR_CACHES_COMMAND",
        ),
        ({"COPY_DATA_TO": "/dev/null/copies"}, "COPY_DATA_TO=/dev/null/copies: not writable; choose another directory"),
    ],
    ids=["caches", "copies"],
)
def test_a_node_that_fails_ends_the_run_before_it_starts(
    asked: dict[str, Any], line: str, cluster: Cluster, tiny_data: dict[str, str], tmp_path: Path
) -> None:
    (run,) = submit(cluster, {**tiny_data, **TWO_NODES, **asked, "JOB_DIR": tmp_path})
    job = run.ended(run.jobs[0])
    assert job.exit_code == BAD_INPUT, job.printed
    assert line in job.printed and "Traceback" not in job.printed
    assert not (job.run_dir / paths.MLPERF_LOG).exists()
