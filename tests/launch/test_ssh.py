"""Submission through ssh, from a laptop or from inside a container, to a real sshd and the real Slurm behind it."""

import getpass
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import debian
import lacking
import pytest
from cluster import Cluster
from runs import REPOSITORY
from sshd import SSHD, Laptop, LoginNode

from llama31.common.errors import UserError
from llama31.config import paths
from llama31.launch import prepare
from llama31.plan.plan import NOT_VALIDATED, Plan
from llama31.run_dir import job_chain, record

USER = getpass.getuser()


@pytest.fixture(scope="module")
def login(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    for program, package in (("ssh", "openssh-client"), (SSHD, "openssh-server")):
        debian.need(program, package)
    login = LoginNode(tmp_path_factory.mktemp("login"), cluster)
    with login.running():
        yield login


@pytest.fixture
def laptop(login: LoginNode, tmp_path: Path) -> Laptop:
    return Laptop(tmp_path / "laptop", login)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, tiny_data: dict[str, str]) -> Path:
    """The cluster's data, and this repository with its environment."""
    there = tmp_path_factory.mktemp("cluster") / 'it\'s $HOME "x"'
    shutil.copytree(tiny_data["PREPROCESSED_PATH"], there / "data")
    shutil.copytree(tiny_data["TOKENIZER_PATH"], there / "tokenizer")
    (there / "code").mkdir()
    for name in ("llama31", "pretrain_llama31.py"):
        (there / "code" / name).symlink_to(REPOSITORY / name)
    (there / "code" / ".venv").symlink_to(sys.prefix)
    return there


@pytest.fixture
def settings(there: Path, tiny_data: dict[str, str]) -> dict[str, str]:
    """Settings of a submission whose jobs wait to be released."""
    return {
        "PARTITION": "debug",
        "HOST": "login",
        "SSH_USER": USER,
        "SBATCH_ARGS": "--hold",
        "CODE_PATH": str(there / "code"),
        "JOB_DIR": str(there / "my runs"),
        "PREPROCESSED_PATH": str(there / "data"),
        "TOKENIZER_PATH": str(there / "tokenizer"),
        "N_VALIDATION_SAMPLES": tiny_data["N_VALIDATION_SAMPLES"],
        "SIZE": "tiny",
        "DEVICE": "cpu",
        "SEQ_LENGTH": "32",
        "GBS": "8",
        "EVAL_SAMPLES": "16",
    }


@pytest.fixture
def hidden(there: Path, cluster: Cluster) -> tuple[Path, Path]:
    """Directories that the laptop does not see."""
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", there], capture_output=True, check=False
    )
    if done.returncode:
        lacking.skip("no mount namespace can be made here to hide the cluster's files in")
    return there, cluster.directory


def test_run_from_a_laptop(
    laptop: Laptop, cluster: Cluster, settings: dict[str, str], hidden: tuple[Path, Path], there: Path
) -> None:
    """Two jobs in a chain, the first to its target; the second finds the run finished."""
    more = {"NPAR": "2", "SEEDS": "5", "SAVE_CKPT": "1", "CONTINUAL_CKPT": str(there / "checkpoints"), "TAG": "it's"}
    done = laptop.submit({**settings, **more, "SBATCH_ARGS": "", "EVAL_EVERY": "8", "TARGET": "100"}, hidden=hidden)
    assert (done.returncode, done.stderr) == (0, "")
    printed = re.search(r"seed (\d+), jobs (\d+), (\d+)\nrun directory: (.*)\nlog: (.*)\n", done.stdout)
    assert printed, done.stdout
    seed, first, second, run_dir = int(printed[1]), printed[2], printed[3], Path(printed[4])
    script = cluster.ask("scontrol", "write", "batch_script", first, "-")
    assert f"{shlex.quote(str(there / 'code/.venv/bin/python'))})\n" in script, "not what LLAMA31_VENV names here"
    assert "afterany:" + first in cluster.ask("scontrol", "show", "job", second)
    assert run_dir.parent == there / "my runs" and printed[5] == str(run_dir / "slurm-JOB.log")
    assert script.rstrip("\n") == (run_dir / paths.SCRIPT).read_text().rstrip("\n")
    assert len(laptop.calls.read_text().splitlines()) == 5, (
        "one for the time limit, the directory, each job, and a note"
    )

    submitted = job_chain.load(run_dir)
    assert submitted and (submitted.jobs, submitted.seed) == ([int(first), int(second)], seed)
    assert submitted.destination == f"{USER}@login"
    stored = record.load_settings(run_dir)
    assert (stored.tag, stored.host, stored.seeds) == ("it's", "login", str(seed))
    said = json.loads((run_dir / paths.RECORD).read_text())
    assert said["command"].startswith("ssh ") and "TAG=it's" in said["arguments"]

    log = run_dir / paths.slurm_log(first)
    assert cluster.ended(first) == "COMPLETED", log.read_text()
    outcome = record.load_outcome(run_dir / f"job-{first}")
    assert outcome and outcome.status == "success", log.read_text()
    assert cluster.ended(second) == "COMPLETED"
    assert "finished: " in (run_dir / paths.slurm_log(second)).read_text()
    kept = {paths.SCRIPT, paths.SETTINGS, paths.RECORD, paths.SUBMISSION}
    assert kept <= {file.name for file in run_dir.iterdir()} and not list(run_dir.rglob("*.partial"))


def test_plan_on_a_laptop(laptop: Laptop, settings: dict[str, str], hidden: tuple[Path, Path]) -> None:
    done = laptop.submit(settings, "--dryrun", hidden=hidden)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{settings['PREPROCESSED_PATH']}: {NOT_VALIDATED}" in done.stdout
    assert f"ssh -o BatchMode=yes -o ConnectTimeout=10 {USER}@login " in done.stdout
    assert "#SBATCH --partition=debug" in done.stdout
    assert laptop.calls.read_text() == ""


def test_memory_is_checked_without_the_data(settings: dict[str, str]) -> None:
    """The benchmark's model has the benchmark's vocabulary."""
    afar = {"PREPROCESSED_PATH": "/no such", "SIZE": "8b", "DEVICE": "cuda", "SEQ_LENGTH": "8192", "GPU": "H100"}
    given = [f"{name}={value}" for name, value in {**settings, **afar}.items()]
    with pytest.raises(UserError, match=r"^GPU=H100: 80 GB, but each would need about"):
        prepare.checked(given, {})
    resolved, data = prepare.checked([*given, "GPU=H200", "GPUS_PER_NODE=8", "TENSOR_PARALLEL_SIZE=4"], {})
    assert "memory of a GPU: about " in Plan(resolved, data, []).text()


def test_relative_and_missing_paths(laptop: Laptop, settings: dict[str, str], hidden: tuple[Path, Path]) -> None:
    wrong = {"JOB_DIR": "runs", "PREPROCESSED_PATH": "~/data", "TOKENIZER_PATH": "", "CODE_PATH": "../code"}
    done = laptop.submit({**settings, **wrong}, hidden=hidden)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "PREPROCESSED_PATH=~/data: with HOST, write the absolute path on login",
        "JOB_DIR=runs: with HOST, write the absolute path on login",
        "CODE_PATH=../code: with HOST, write the absolute path on login",
        "TOKENIZER_PATH is empty; set it to the directory on login",
    ]
    assert laptop.calls.read_text() == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"HOST": "nobody-there.invalid"}, ["HOST: ssh ", "nobody-there.invalid fails: Could not resolve hostname"]),
        ({"HOST": "closed"}, ["HOST: ssh ", "closed fails: ", "Connection refused"]),
        ({"HOST": "keyless"}, ["HOST: ssh ", "keyless fails: ", "Permission denied", "key without a password"]),
        ({"SSH_USER": ""}, ["HOST: ssh login fails: no-such-user@127.0.0.1: Permission denied"]),
        ({"HOST": "stranger"}, ["HOST: ssh ", "Host key verification failed", "accept the host's key once"]),
        ({"HOST": "bare"}, ["HOST: sinfo on ", "bare is not found; name a machine that has it"]),
        ({"PARTITION": "nope"}, ["sbatch on ", "login fails: ", "nope"]),
        ({"JOB_DIR": "/proc/no where"}, ["JOB_DIR=/proc/no where on ", "login: mkdir: cannot create directory"]),
        ({"PREPROCESSED_PATH": "/no such"}, ["PREPROCESSED_PATH=/no such: not on login; name the directory"]),
        ({"CODE_PATH": "/no such"}, ["CODE_PATH=/no such: not on login; name the directory of this repository there"]),
    ],
    ids=lambda value: " ".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else "",
)
def test_failure_is_one_line_and_leaves_nothing(
    changes: dict[str, str], said: list[str], laptop: Laptop, settings: dict[str, str], cluster: Cluster, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    done = laptop.submit({**settings, "JOB_DIR": str(runs), **changes})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert all(part in line for part in said), line
    assert not runs.exists() or not list(runs.iterdir())
    assert cluster.ask("squeue", "--noheader") == ""


@pytest.mark.parametrize(
    ("options", "said"), [("nr_inodes=4", "No space left on device"), ("size=4k", "No space left"), ("ro", "Read-only")]
)
def test_disk_that_takes_no_run_directory(
    options: str, said: str, laptop: Laptop, settings: dict[str, str], cluster: Cluster, tmp_path: Path
) -> None:
    """The disk is full at the second file or within the first, or it is read-only."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lacking.skip("only root can mount a small file system to fill up")
    try:
        done = laptop.submit({**settings, "JOB_DIR": str(disk)})
        left = list(disk.rglob("*"))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"JOB_DIR={disk} on {USER}@login: ") and said in line
    assert left == []
    assert cluster.ask("squeue", "--noheader") == ""


def test_laptop_without_ssh(laptop: Laptop, settings: dict[str, str]) -> None:
    (laptop.bin / "ssh").unlink()
    done = laptop.submit(settings)
    assert done.returncode == 2
    assert done.stderr == f"HOST: ssh to {USER}@login is not possible, this machine has no ssh; install it\n"


def test_connection_lost_within_a_chain(
    laptop: Laptop, settings: dict[str, str], cluster: Cluster, tmp_path: Path
) -> None:
    """The first job is queued and recorded, and a line names it."""
    chain = {"NPAR": "2", "SEEDS": "5", "SAVE_CKPT": "1", "CONTINUAL_CKPT": str(tmp_path / "checkpoints")}
    done = laptop.submit({**settings, **chain, "JOB_DIR": str(tmp_path / "runs")}, LOST="4")
    (run_dir,) = (tmp_path / "runs").iterdir()
    submitted = job_chain.load(run_dir)
    assert submitted and len(submitted.jobs) == 1
    cluster.ask("scancel", str(submitted.jobs[0]))
    assert done.returncode == 2
    failure, queued = done.stderr.splitlines()
    assert failure.startswith(f"HOST: ssh {USER}@login fails: exit code 255; ")
    assert queued == f"{run_dir}: job {submitted.jobs[0]} already queued; scancel cancels them"


def test_inside_a_container(laptop: Laptop, settings: dict[str, str], there: Path, cluster: Cluster) -> None:
    """The data has the same path here and there, so it is checked before anything is submitted."""
    done = laptop.submit({**settings, "TRAIN_PARTS": "5"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("TRAIN_PARTS=5: no ") and laptop.calls.read_text() == ""
    assert "documents, " in laptop.submit(settings, "--dryrun").stdout

    done = laptop.submit(settings)
    assert (done.returncode, done.stderr) == (0, "")
    job = re.search(r"job (\d+)\n", done.stdout)
    assert job and cluster.state(job[1]) == "PENDING"
    cluster.ask("scancel", job[1])


def test_job_looks_at_the_data(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """HOST, which a job's settings have too, does not excuse that data is missing."""
    given = [f"{name}={value}" for name, value in {**settings, "PREPROCESSED_PATH": "/no such"}.items()]
    prepare.checked(given, {})
    monkeypatch.setenv("LLAMA31_IN_JOB", "1")
    with pytest.raises(UserError, match="PREPROCESSED_PATH=/no such"):
        prepare.checked(given, {})
