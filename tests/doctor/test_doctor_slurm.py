"""`doctor` under srun on the two nodes of a real Slurm. About 40 s beside the cluster's start."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from runs import arguments, environment

from llama31.config.resolve import resolve
from llama31.doctor import tools
from llama31.doctor.context import Context
from llama31.doctor.findings import Severity

pytestmark = pytest.mark.slurm
STEP = ("srun", "--nodes=2", "--ntasks=2", "--kill-on-bad-exit=0", "bash", "-c")
DOCTOR = f'exec "{sys.executable}" -m llama31 doctor "$@"'


def doctor(cluster: Cluster, script: str, settings: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """A script on each of two nodes that calls the doctor with what it is given."""
    given = arguments({**settings, "NNODES": "2"})
    exported = {"PARTITION": ""}  # as config.sh does
    return cluster.run(*STEP, script, "doctor", *options, *given, env={**environment(), **exported})


def test_two_nodes(cluster: Cluster, usual: dict[str, str], tmp_path: Path) -> None:
    done = doctor(cluster, DOCTOR, usual)
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in said), done.stdout
    assert re.search(r"gloo, 2 ranks, 16\.78 MB: bus bandwidth [\d.]+ [MG]B/s on n[12], the slowest$", said[-1])
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_sees_another_directory(cluster: Cluster, usual: dict[str, str], tmp_path: Path) -> None:
    """The second node has its own file system where the first one writes, and lacks the tokenizer's files."""
    runs, tokenizer = tmp_path / "runs", usual["TOKENIZER_PATH"]
    runs.mkdir()
    mounts = "\n".join(f'mount -t tmpfs tmpfs "{path}" || exit 9' for path in (runs, tokenizer.replace("$", "\\$")))
    second = f"unshare --mount bash -c '{mounts}\n{DOCTOR}' doctor \"$@\""
    done = doctor(cluster, f'if [ "$SLURM_PROCID" = 0 ]; then {DOCTOR}; fi\n{second}', usual)
    assert done.returncode == 1, done.stdout + done.stderr
    failures = [line.split(maxsplit=2)[2] for line in done.stdout.splitlines() if line.startswith("failed")]
    for start in (
        f"n2: {tokenizer}: holds no tokenizer.json",
        f"n2: JOB_DIR={runs}: lacks the file that the first node",
    ):
        assert any(line.startswith(start) for line in failures), done.stdout
    assert all(line.startswith("n2: ") for line in failures), done.stdout


def test_a_node_that_never_answers(cluster: Cluster, usual: dict[str, str]) -> None:
    script = f'[ "$SLURM_PROCID" = 1 ] || {DOCTOR}'
    done = doctor(cluster, script, usual, "--timeout=4")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("failed   nodes:        n2: no answer (rank 1); see srun's output if they exited")
    assert re.search(r"^failed   all-reduce: +(no answer within|gloo failed on rank 0)", done.stdout, re.M), done.stdout


def test_what_is_a_task(cluster: Cluster, tmp_path: Path) -> None:
    """From Slurm's own variables: the only task of a step is one, also within a job; a job's script is none."""
    ask = f"{shlex.quote(sys.executable)} -c 'from llama31.doctor.group import *; print(is_task(), step_task())'"
    assert cluster.ask("srun", "--ntasks=1", "bash", "-c", ask) == "True None\n"
    said = tmp_path / "said"
    wrapped = f"{ask}; srun --nodes=1 --ntasks=1 bash -c {shlex.quote(ask)}"
    cluster.ask("sbatch", "--wait", "--nodes=2", "--ntasks=2", f"--output={said}", f"--wrap={wrapped}")
    assert said.read_text() == "False None\nTrue None\n"


def test_partitions(cluster: Cluster, usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster.directory / "slurm.conf"))

    def failures(partition: str) -> list[str]:
        here = Context(resolve([f"PARTITION={partition}"], {}).settings, 60)
        return [found.says for found in tools.check(here) if found.severity is Severity.failed]

    assert failures("debug") == []
    assert failures("debug,gpu") == ["PARTITION=gpu: no such partition; there are debug"]
