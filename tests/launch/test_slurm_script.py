"""The sbatch script and its commands: golden files, every setting's effect, shellcheck, what a shell makes of it."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from golden import Golden

from llama31.config import paths
from llama31.config.environment import LIBRARIES
from llama31.config.resolve import Resolved
from llama31.launch.slurm import script, submit
from llama31.plan.plan import Plan
from llama31.plan.validate_slurm import NEEDS_PARTITION, problems, seconds
from llama31.settings import Container, Device, Settings

RUN_DIR = Path("/cluster/my runs/$HOME 100%")

JOB = Settings(
    partition="gpus",
    time="4:00:00",
    nnodes=4,
    gpus_per_node=8,
    job_dir=str(RUN_DIR.parent),
    gpu="H100",
    preprocessed_path='/data/c4\'s "best" $parts',
    tokenizer_path="/data/tokenizer",
    tensor_parallel_size=2,
    seeds="1234",
    nexp=1,
)
PYXIS = replace(JOB, image="registry#team/llama31:1", mounts="/scratch:/fast, /models")
CASES = {
    "none": JOB,
    "pyxis": PYXIS,
    "apptainer": replace(
        PYXIS, image="/images/llama31.sif", container=Container.apptainer, code_path="/workspace/llama31"
    ),
    "ssh": replace(JOB, host="login", ssh_user="me", code_path="/home/me/llama31", account="team"),
    "chain": replace(
        JOB,
        npar=3,
        save_ckpt=True,
        continual_ckpt="/cluster/checkpoints",
        max_retries=2,
        dependencies="11 12",
        sbatch_args="--qos=high --comment='two words'",
        exclusive=False,
        tag="x y",
    ),
    "several": replace(
        PYXIS,
        nexp=2,
        runs_per_job=2,
        copy_data_to="/scratch/c4's",
        tmp_npy_index="/scratch/index",
        clear_caches=True,
        tag="x y",
    ),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of libraries but those that the tests set; a checkout whose path sorts the same everywhere."""
    monkeypatch.setattr(paths, "REPOSITORY", Path("/CHECKOUT"))
    for name in [name for name in os.environ if name.startswith(LIBRARIES) and not name.startswith("PATH")]:
        monkeypatch.delenv(name)


def preview(settings: Settings, *allowed: str) -> str:
    plan = Plan(Resolved(settings, {field.name: "default" for field in fields(settings)}), None, [])
    text = submit.preview([plan], RUN_DIR, allowed)
    return text.replace(sys.executable, "PYTHON")


@pytest.mark.parametrize("name", CASES)
def test_what_is_submitted(name: str, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO with $spaces")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # of the machine it is submitted from
    assert list(problems(CASES[name])) == []
    golden.check(f"sbatch_{name}.txt", preview(CASES[name], *(["GBS"] if name == "chain" else [])))


@pytest.mark.parametrize("name", CASES)
def test_scripts_are_clean(name: str) -> None:
    program = Path(sys.prefix) / "bin" / "shellcheck"
    texts = [script.render(CASES[name], RUN_DIR, ["GBS"], {"NCCL_DEBUG": "INFO"})]
    texts.append(script.render_several(CASES[name], [RUN_DIR, Path("/another's")]))
    for text in texts:
        done = subprocess.run(
            [program if program.exists() else shutil.which("shellcheck") or "shellcheck", "--shell=bash", "-"],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_runs_that_cannot_share_a_job() -> None:
    """Only as many as there are, and in jobs that are not requeued."""
    several = CASES["several"]
    (problem,) = problems(replace(several, nexp=1))
    assert problem.what == "RUNS_PER_JOB=2: more than the experiments, NEXP=1" and problem.remedies == [{"nexp": 2}]
    (problem,) = problems(replace(several, max_retries=1))
    assert problem.what.startswith("MAX_RETRIES=1: a job with RUNS_PER_JOB=2 is not requeued")
    assert problem.candidates == (0,)


OTHER = {
    "account": "team",
    "time": "30",
    "exclusive": False,
    "sbatch_args": "--qos=high",
    "signal_before_end": 60,
    "npar": 2,
    "runs_per_job": 2,
    "max_retries": 1,
    "dependencies": "afterok:5",
    "host": "login",
    "ssh_user": "me",
    "code_path": "/elsewhere",
    "image": "image.sqsh",
    "container": Container.apptainer,
    "mounts": "/models",
    "nnodes": 2,
    "partition": "other",
}
BESIDES = {
    "npar": {"save_ckpt": True, "continual_ckpt": "/c"},
    "runs_per_job": {"nexp": 2},
    "ssh_user": {"host": "login"},
    "container": {"image": "i"},
    "mounts": {"image": "i"},
}


@pytest.mark.parametrize("name", [*NEEDS_PARTITION, "partition"])
def test_every_setting_changes_more_than_its_own_line(name: str) -> None:
    """Beside `export NAME=value`, there is something that Slurm, ssh or the container gets to see."""
    base = replace(JOB, nnodes=1, time="2:00:00", **BESIDES.get(name, {}))  # type: ignore[arg-type]
    changed = replace(base, **{name: OTHER[name]})
    assert list(problems(changed)) == []
    before, after = (
        [line for line in preview(one).splitlines() if not line.startswith(f"export {name.upper()}=")]
        for one in (base, changed)
    )
    assert before != after


def test_a_shell_gets_the_settings_as_they_are(tmp_path: Path) -> None:
    """Any value is quoted correctly; runs the lines from the exports to the first that needs Slurm."""
    odd = replace(JOB, tag='it\'s "$HOME" `x` \\ *', submission_org="a  b")
    text = script.render(odd, RUN_DIR, [], {"NCCL_X": "two\nlines $(x)", "NCCL_BAD NAME": "x", "PATH": "/x"})
    exports = text[text.index("export ") : text.index("# Rendezvous of the ranks")]
    done = subprocess.run(
        ["env", "-i", shutil.which("bash") or "bash", "-euc", f"{exports}\n{shutil.which('env')} -0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
    wanted = script.exports(odd, {"NCCL_X": "two\nlines $(x)"})
    assert wanted["NCCL_X"] == "two\nlines $(x)"
    assert {name: found.get(name) for name in wanted} == wanted


def test_what_libraries_read_goes_along_but_not_what_is_of_one_machine() -> None:
    """Of AMD's GPUs and of EFA too; no secret becomes part of a script."""
    along = {"FI_PROVIDER": "efa", "HSA_NO_SCRATCH_RECLAIM": "1", "TOKENIZERS_PARALLELISM": "false"}
    here = {"HIP_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0", "HIP_PATH": "/opt", "HF_TOKEN": "hush"}
    exported = script.exports(JOB, {**along, **here})
    assert along.items() <= exported.items() and not here.keys() & exported.keys()
    caches = {"HF_HOME": "/a", "TRITON_CACHE_DIR": "/a", "TORCHINDUCTOR_CACHE_DIR": "/a", "WANDB_DIR": "/a"}
    assert caches.items() <= script.exports(JOB, caches).items(), "a cluster's nodes have the same directories"
    exported = script.exports(replace(JOB, host="login"), {**along, **caches})
    assert along.items() <= exported.items() and not caches.keys() & exported.keys(), "those are of this machine"


def test_cpu_jobs_ask_for_no_gpus() -> None:
    shared = replace(JOB, exclusive=False)
    assert "#SBATCH --gpus-per-node=8\n" in preview(shared)
    assert "--gpus" not in preview(replace(shared, device=Device.cpu, gpu=""))
    assert "--exclusive" not in preview(shared)


@pytest.mark.parametrize(
    ("there", "device", "wanted"),
    [
        (["nvidiactl"], Device.auto, ["--nv"]), (["kfd"], Device.auto, ["--rocm"]), ([], Device.auto, ["--nv"]),
        (["kfd", "nvidiactl"], Device.auto, ["--nv"]), (["nvidiactl", "kfd"], Device.cpu, []),
    ],
)  # fmt: skip
def test_apptainer_shows_the_gpus_of_the_node(
    there: list[str], device: Device, wanted: list[str], tmp_path: Path
) -> None:
    """Regardless of GPU, which may be empty."""
    for file in there:
        (tmp_path / file).touch()
    text = script.render(replace(CASES["apptainer"], gpu="", device=device), RUN_DIR, [], {})
    task = text[text.index("mounts=(") : text.index("mkdir -p")] + text[text.index("task=(") : text.index("once=(")]
    show = task.replace("/dev/", f"{tmp_path}/") + "printf '%s\\n' \"${task[@]}\""
    bash = ["env", "-i", shutil.which("bash") or "bash", "-euc", f"names=() given=()\n{show}"]
    printed = subprocess.run(bash, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[: 2 + len(wanted)] == ["apptainer", "exec", *wanted] and "--no-home" in printed


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("90", 5400), ("90:30", 5430), ("1:30:00", 5400), ("2-3", 183600), ("2-3:30", 185400), ("2-0:0:1", 172801),
        ("0", None), ("1h", None), ("", None), ("1:2:3:4", None), ("-1", None),
    ],
)  # fmt: skip
def test_time_limits(limit: str, wanted: int | None) -> None:
    """The formats that sbatch's manual lists."""
    assert seconds(limit) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", []), ("SLURM_GPUS_ON_NODE=0", []), ("SLURM_GPUS_ON_NODE=8", ["--gpus-per-node=8"]),
        ("SLURM_GPUS_ON_NODE=16", ["--gpus-per-node=8"]), ("SLURM_GPUS_ON_NODE=4", ["--gpus-per-node=4"]),
    ],
)  # fmt: skip
def test_steps_get_gpus_of_whole_nodes(given: str, wanted: list[str]) -> None:
    """By default srun leaves out the GPUs that a job has only by --exclusive (man srun, --gres). SLURM_GPUS_ON_NODE has
    the number of the first node's, if Slurm knows of GPUs."""

    def asked(settings: Settings) -> list[list[str]]:
        text = script.render(settings, RUN_DIR, [], {})
        arrays = text[text.index("srun=(") : text.index("\ncode=0")]
        show = "printf '%s\\n' \"${srun[@]}\"; echo; printf '%s\\n' \"${once[@]}\""
        bash = ["env", "-i", *filter(None, [given]), shutil.which("bash") or "bash", "-euc", f"{arrays}\n{show}"]
        printed = subprocess.run(bash, capture_output=True, text=True, check=True).stdout
        return [[line for line in part.splitlines() if "gpu" in line] for part in printed.split("\n\n")]

    assert asked(JOB) == [wanted, wanted]
    assert asked(replace(JOB, exclusive=False)) == [[], []], "what a job asks for by name, its steps get"
    assert asked(replace(JOB, device=Device.cpu, gpu="")) == [[], []]


def test_of_jobs_that_begin_at_once_one_works_in_the_run_directory(tmp_path: Path) -> None:
    """Between the look at who works there and the note of it there is time, here half a second."""
    text = script.render(JOB, tmp_path / "it's $HOME", [], {})
    claims = text[text.index("set -euo") : text.index("# The settings, and")]
    (tmp_path / "it's $HOME").mkdir()
    slow = {"squeue": "echo RUNNING", "mkdir": f'sleep 0.5; exec {shutil.which("mkdir")} "$@"'}
    for name, does in slow.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    jobs = [
        subprocess.Popen(
            ["bash", "-c", claims], env={"PATH": path, "SLURM_JOB_ID": str(job)}, stderr=subprocess.PIPE, text=True
        )
        for job in range(1, 5)
    ]
    said = [job.communicate(timeout=60)[1] for job in jobs]
    assert sorted(job.returncode for job in jobs) == [0, 2, 2, 2]
    works = next(number for number, job in enumerate(jobs, 1) if job.returncode == 0)
    assert sum(f": job {works} works in it; " in line for line in said) == 3


EXCLUSIVE, SHARED = {"exclusive": True}, {"exclusive": False}


@pytest.mark.parametrize(
    ("more", "given", "option", "works"),
    [
        (SHARED, "--gres=gpu:8", "--gres=gpu:8", ""),
        (SHARED, "--gres gpu", "--gres gpu", ""),
        (SHARED, "--qos=high --gres=gpu:h100:8", "--gres=gpu:h100:8", "--qos=high --gpus-per-node=h100:8"),
        (SHARED, "--gres=nvme:1,gpu:a:2 -x n1", "--gres=nvme:1,gpu:a:2", "--gpus-per-node=a:8 --gres=nvme:1 -x n1"),
        (SHARED, "--gres=gres/gpu:8", "--gres=gres/gpu:8", ""),
        (SHARED, "--gpus-per-socket=4", "--gpus-per-socket=4", ""),
        (EXCLUSIVE, "--mem-per-cpu=4G --qos=high", "--mem-per-cpu=4G", "--qos=high"),
        (EXCLUSIVE, "--mem-per-c 4G", "--mem-per-c 4G", ""),
        (EXCLUSIVE, "--mem-per-gpu=4G", "--mem-per-gpu=4G", ""),
    ],
)  # fmt: skip
def test_options_that_sbatch_takes_in_one_way_only(more: dict[str, bool], given: str, option: str, works: str) -> None:
    """Each is refused before a submission, with SBATCH_ARGS that work."""
    settings = replace(JOB, sbatch_args=given, **more)  # type: ignore[arg-type]
    (problem,) = problems(settings)
    assert problem.what.startswith(f"SBATCH_ARGS={given}: leave out {option}; ")
    assert problem.candidates[0] == works
    for remedy in problem.remedies:
        assert list(problems(replace(settings, **remedy))) == [], remedy


@pytest.mark.parametrize(
    ("more", "given"),
    [
        (SHARED, "--gpus-per-node=h100:8"), (SHARED, "--gres=nvme:1"), (SHARED, "--gres-flags=enforce-binding"),
        (SHARED, "--mem-per-cpu=4G"), (SHARED, "--mem=100G"), (EXCLUSIVE, "--mem=100G"), (EXCLUSIVE, "--gres=gpu:8"),
        ({**SHARED, "device": Device.cpu, "gpu": ""}, "--gres=gpu:1"),
    ],
)  # fmt: skip
def test_options_that_sbatch_takes(more: dict[str, Any], given: str) -> None:
    assert list(problems(replace(JOB, sbatch_args=given, **more))) == []


@pytest.mark.parametrize("given", ["--time=4", "-t4", "-t 0:04:00", "--time 4 --time=3"])
def test_time_limit_among_the_options(given: str) -> None:
    """It wins over TIME, and must leave time for SIGNAL_BEFORE_END too."""
    (problem,) = problems(replace(JOB, sbatch_args=given, signal_before_end=300))
    assert "of SBATCH_ARGS, which is " in problem.what
    assert list(problems(replace(JOB, sbatch_args=given, signal_before_end=60))) == []


@pytest.mark.parametrize(
    ("signals", "retries"), [([signal.SIGUSR1], 2), ([signal.SIGUSR1, signal.SIGTERM], 0)], ids=str
)
@pytest.mark.parametrize("when", ["before there is a file", "while a step runs"])
def test_the_script_forwards_a_warning_at_once_and_keeps_the_exit_code(
    when: str, signals: list[signal.Signals], retries: int, tmp_path: Path
) -> None:
    """The exit code of a step that is warned while it runs is kept; after SIGTERM, the job is not queued again."""
    text = script.render(replace(JOB, max_retries=2), RUN_DIR, [], {})
    functions = text[text.index("max_retries=") : text.index("fail() {")]
    file = text[text.index("if ((warnings))") :].partition("\n")[0]
    step = 'until [[ -s "$job_dir/.warned" && -e "$job_dir/sent" ]]; do :; done; exit 7'
    heard = f"until ((warnings == {len(signals)})); do :; done" if when.startswith("before") else ":"
    steps = f"run bash -c {shlex.quote(step)} || code=$?\necho $code $max_retries"
    body = f"{functions}\necho ready\n{heard}\n{file}\n{steps}"
    command = ["bash", "-euc", f"job_dir={shlex.quote(str(tmp_path))}; export job_dir\n{body}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as bash:
        try:
            assert bash.stdout and bash.stdout.readline() == "ready\n"
            for signum in signals:
                bash.send_signal(signum)
            (tmp_path / "sent").touch()
            printed, _ = bash.communicate(timeout=60)
        finally:
            bash.kill()
    assert (printed, bash.returncode) == (f"7 {retries}\n", 0)


@pytest.mark.parametrize("limit", ["0", "infinite", "UNLIMITED"])
def test_no_time_limit(limit: str) -> None:
    unlimited = replace(JOB, time=limit)
    assert list(problems(unlimited)) == [] and f"#SBATCH --time={limit}\n" in preview(unlimited)
