"""What differs between sites, on a real Slurm of its own: GPUs, hidden partitions, limits of time and memory. 20 s."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in
from cluster import REPOSITORY, Cluster
from runs import arguments, environment

from dev.support.submitted import submit
from llama31.launch.slurm import partitions
from llama31.run_dir.events import BAD_INPUT, FAILED

pytestmark = pytest.mark.slurm

CONF = """GresTypes=gpu
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
PartitionName=short Nodes=ALL DefaultTime=2 MaxTime=60 State=UP
PartitionName=at-most Nodes=ALL MaxTime=3 State=UP
PartitionName=secret Nodes=ALL Hidden=YES DefaultTime=0:30:00 State=UP
"""
GRES = """NodeName=n1 Name=gpu File=DIRECTORY/gpu[0-1]
NodeName=n2 Name=gpu File=DIRECTORY/gpu0
"""
NODES = {"more.n1": "Gres=gpu:2", "more.n2": "Gres=gpu:1", "gpu0": "", "gpu1": ""}


@pytest.fixture(scope="module")
def site() -> Iterator[Cluster]:
    """Two nodes with different numbers of GPUs, as far as Slurm knows, whose jobs end if they take too much memory."""
    with Cluster.started({"more.conf": CONF, "gres.conf": GRES, **NODES}) as cluster:
        yield cluster


@pytest.fixture
def settings(tiny_data: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """Settings of a run whose ranks are stand-ins."""
    return {**stand_in.settings(tmp_path / "code", tmp_path / "hold"), **tiny_data, "JOB_DIR": tmp_path / "runs"}


def refused(site: Cluster, settings: dict[str, Any], *options: str) -> str:
    """The one line with which a submission is refused; nothing is left of it."""
    done = site.run("bash", REPOSITORY / "run_llama31.sh", *options, *arguments(settings), env=environment())
    assert done.returncode == BAD_INPUT, done.stdout + done.stderr
    assert not Path(settings["JOB_DIR"]).exists()
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("exclusive", [0, 1])
def test_nodes_with_different_numbers_of_gpus(exclusive: int, site: Cluster, settings: dict[str, Any]) -> None:
    """A step gets one GPU per rank on each node, with whole nodes too."""
    (run,) = submit(site, {**settings, "DEVICE": "cuda", "GPUS_PER_NODE": 1, "EXCLUSIVE": exclusive})
    job = run.ended(run.jobs[0])
    assert job.exit_code == 0, job.printed
    assert stand_in.started(job.printed) == ["job on n1", "rank on n1", "rank on n2", "job on n1"]
    assert job.printed.count(" with 1 GPUs\n") >= 3, "the step at the job's end needs none"


def test_second_node_with_fewer_gpus_than_ranks(site: Cluster, settings: dict[str, Any]) -> None:
    """Srun says so, and starts no rank; up to 22.05 nothing at all."""
    (run,) = submit(site, {**settings, "DEVICE": "cuda", "GPUS_PER_NODE": 2, "EXCLUSIVE": 1})
    job = run.ended(run.jobs[0])
    assert job.exit_code == FAILED, job.printed
    assert "srun: error: " in job.printed and "Invalid generic resource (gres) specification" in job.printed
    assert "rank on" not in " ".join(stand_in.started(job.printed))


def test_hidden_partitions_are_known(site: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(site.directory / "slurm.conf"))
    assert partitions.known("") == {
        "debug": partitions.Partition("", "infinite"),
        "short": partitions.Partition("2:00", "1:00:00"),
        "at-most": partitions.Partition("", "3:00"),
        "secret": partitions.Partition("30:00", "infinite"),
    }


@pytest.mark.parametrize(
    ("partition", "signal_before_end", "limit", "works"),
    [
        ("short", 300, "2:00, the time limit of PARTITION=short", "TIME=1:00:00 or SIGNAL_BEFORE_END=30"),
        ("debug,at-most", 300, "3:00, the time limit of PARTITION=at-most", "SIGNAL_BEFORE_END=45"),
        ("secret", 3600, "30:00, the time limit of PARTITION=secret", "TIME=4:00:00 or SIGNAL_BEFORE_END=450"),
    ],
)
def test_default_time_limit_that_leaves_no_time(
    partition: str, signal_before_end: int, limit: str, works: str, site: Cluster, settings: dict[str, Any]
) -> None:
    asked = {"PARTITION": partition, "DEVICE": "cpu", "SIGNAL_BEFORE_END": signal_before_end}
    line = refused(site, {**settings, **asked})
    assert line == f"SIGNAL_BEFORE_END={signal_before_end}: must be below {limit} without TIME; {works} works"


@pytest.mark.parametrize(
    "more",
    [{"TIME": "0:30:00"}, {"SIGNAL_BEFORE_END": 30}, {"SIGNAL_BEFORE_END": 0}, {"SBATCH_ARGS": "--hold -t 10"}],
    ids=str,
)
def test_valid_time_limits_in_a_partition_with_a_short_default(
    more: dict[str, Any], site: Cluster, settings: dict[str, Any]
) -> None:
    held = {"PARTITION": "short", "DEVICE": "cpu", "SBATCH_ARGS": "--hold", "EXCLUSIVE": 0}
    (run,) = submit(site, {**settings, **held, **more})
    assert site.state(run.jobs[0]) == "PENDING"
    site.ask("scancel", run.jobs[0])


EATS = """#!/usr/bin/env bash
if [[ " $* " == *" llama31.launch.slurm.rank "* ]]; then
    eats='import signal; x = bytearray(900 << 20); signal.pause()'
    if ((SLURM_PROCID)); then set -- -c "$eats"; else exec sleep 600; fi
fi
exec PYTHON "$@"
"""


def test_rank_that_takes_too_much_memory(
    site: Cluster, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's outcome names what Slurm reports; the other rank waits for it."""
    code = tmp_path / "real code"
    (code / ".venv" / "bin").mkdir(parents=True)
    for name in ("llama31", "pretrain_llama31.py"):
        (code / name).symlink_to(REPOSITORY / name)
    python = code / ".venv" / "bin" / "python"
    python.write_text(EATS.replace("PYTHON", sys.executable))
    python.chmod(0o755)
    memory = {"EXCLUSIVE": 0, "SBATCH_ARGS": "--mem=800", "DEVICE": "cpu", "CODE_PATH": code}
    (run,) = submit(site, {**settings, **memory})
    job = run.ended(run.jobs[0])
    assert job.exit_code == FAILED, job.printed
    assert job.outcome.reason.startswith("out of memory: StepId="), job.printed
    assert "exceeded memory limit" in job.outcome.reason
    assert f"aborted: {job.outcome.reason}" in job.printed
