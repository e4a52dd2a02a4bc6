"""dev/run_docker.sh, with a docker that notes how it was called in place of the program."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkout import REPOSITORY

from dev import image_command
from llama31.common.errors import UserError
from llama31.settings import names

pytestmark = pytest.mark.slow

STRANGE = "a b, $HOME \"quoted\" 'name' é"

NOTING = """#!/bin/sh
printf '%s\\0' "$@" >"$NOTED"
exit 7
"""


@dataclass(frozen=True)
class Call:
    """How dev/run_docker.sh ended, and with which arguments it called docker, if it did."""

    returncode: int
    stdout: str
    stderr: str
    arguments: Sequence[str]

    def values(self, option: str) -> list[str]:
        return [argument.removeprefix(option) for argument in self.arguments if argument.startswith(option)]


Run = Callable[..., Call]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Calls dev/run_docker.sh for a user who stands in an empty directory and has nothing else in the environment."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(NOTING)
    docker.chmod(0o755)
    (tmp_path / "home").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)

    def call(*arguments: str, **environment: str) -> Call:
        noted = tmp_path / "noted"
        noted.unlink(missing_ok=True)
        ours = {
            "PATH": f"{docker.parent}:/usr/bin:/bin",
            "LLAMA31_VENV": str(Path(sys.executable).parents[1]),
            "NOTED": str(noted),
            "IMAGE": "llama31",
        }
        done = subprocess.run(
            ["bash", str(REPOSITORY / "dev" / "run_docker.sh"), *arguments],
            cwd=tmp_path / "home",
            env={**ours, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        heard = noted.read_text().split("\0")[:-1] if noted.exists() else []
        return Call(done.returncode, done.stdout, done.stderr, heard)

    return call


def test_a_run_of_any_paths(run: Run, tmp_path: Path) -> None:
    data, tokenizer = tmp_path / STRANGE, tmp_path / "$(id)"
    data.mkdir()
    tokenizer.mkdir()
    call = run("bash", "run_llama31.sh", "TAG=a b", PREPROCESSED_PATH=str(data), TOKENIZER_PATH=str(tokenizer))
    assert call.returncode == 7, "docker's own exit code"
    assert call.arguments[0] == "run"
    assert call.arguments[-4:] == ["llama31", "bash", "run_llama31.sh", "TAG=a b"]
    quoted = str(data).replace('"', '""')
    assert set(call.values("--mount=")) == {
        f"type=bind,source={REPOSITORY},target={REPOSITORY}",
        f"type=bind,source={tmp_path}/home/runs,target={tmp_path}/home/runs",
        f"type=bind,source={tokenizer},target={tokenizer}",
        f'type=bind,"source={quoted}","target={quoted}"',
    }
    assert {f"PREPROCESSED_PATH={data}", f"TOKENIZER_PATH={tokenizer}"} <= set(call.values("--env="))
    assert f"JOB_DIR={tmp_path}/home/runs" in call.values("--env="), "the container starts elsewhere"
    assert (tmp_path / "home" / "runs").is_dir(), "or docker would make it, as root"
    assert call.values("--workdir=") == [str(REPOSITORY)]
    assert call.values("--user=") == [f"{os.getuid()}:{os.getgid()}"]
    assert {"--ipc=host", "--ulimit=memlock=-1"} <= set(call.arguments)


def test_all_directories_that_are_set(run: Run, tmp_path: Path) -> None:
    made = {name: tmp_path / name for name in ("JOB_DIR", "TMP_NPY_INDEX", "CONTINUAL_CKPT")}
    there = {name: tmp_path / name for name in ("C4_PATH", "MERGED_C4_PATH", "SRC_PATH", "MODEL_CKPT")}
    for path in (*there.values(), tmp_path / "out"):
        path.mkdir()
    given = {**made, **there, "DST_PATH": tmp_path / "out" / "nemo"}
    call = run(**{name: str(path) for name, path in given.items()})
    shown = {*made.values(), *there.values(), tmp_path / "out", REPOSITORY}
    assert set(call.values("--mount=")) == {f"type=bind,source={path},target={path}" for path in shown}
    assert {f"{name}={path}" for name, path in given.items()} <= set(call.values("--env="))
    assert all(path.is_dir() for path in made.values())
    assert not given["DST_PATH"].exists()


def test_every_setting_arrives(run: Run) -> None:
    others = re.compile("PATH|DIR|CKPT|INDEX|FILENAME|DEVICE|COPY_DATA_TO")
    values = {name: f"{name} $x" for name in names() if not others.search(name)}
    call = run(**{**values, "IMAGE": "llama31", "DEVICE": "cpu"})
    assert {f"{name}={value}" for name, value in values.items() if name != "IMAGE"} <= set(call.values("--env="))
    assert "IMAGE=llama31" in call.values("--env="), "with PARTITION, a run submits from within"
    assert not any(value.startswith("IMAGE=") for value in run(GBS="16").values("--env="))


def test_what_libraries_read_arrives_but_not_where_things_lie_here(run: Run) -> None:
    ours = {
        "NCCL_DEBUG": "INFO",
        "OMP_NUM_THREADS": "2",
        "LD_LIBRARY_PATH": "/x",
        "PYTHONPATH": "/y",
        "CUDA_HOME": "/z",
        "RCCL_MSCCL_ENABLE": "1",
        "HIP_PATH": "/z",
        "TRITON_CACHE_DIR": "/z",
    }
    secrets = {"MLC_SECRET_ACCESS_KEY": "hush", "WANDB_API_KEY": "hush"}
    heard = run(**ours, **secrets, HF_HUB_OFFLINE="0").values("--env=")
    assert {"NCCL_DEBUG=INFO", "OMP_NUM_THREADS=2", "RCCL_MSCCL_ENABLE=1", "HF_HUB_OFFLINE=0", *secrets} <= set(heard)
    here = "LD_|PATH|PYTHON|CUDA_HOME|HIP_PATH|LLAMA31|TRITON_CACHE"
    assert not [each for each in heard if re.match(here, each) or "hush" in each]


def test_config_sh_arrives_with_what_it_names(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "my settings" / "config.sh"
    config.parent.mkdir()
    config.write_text("")
    call = run(CONFIG_FILENAME=str(config))
    assert f"type=bind,source={config.parent},target={config.parent}" in call.values("--mount=")
    assert f"CONFIG_FILENAME={config}" in call.values("--env=")
    within = run(CONFIG_FILENAME=str(REPOSITORY / "config.sh"))
    assert len(within.values("--mount=")) == 2, "the checkout is there anyway"


def test_ssh_works_within_as_it_does_here(run: Run, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    agent.touch()
    (tmp_path / "home" / ".ssh").mkdir()
    given = {"HOST": "login", "PARTITION": "p", "HOME": str(tmp_path / "home"), "SSH_AUTH_SOCK": str(agent)}
    call = run(**given)
    shown = [tmp_path / "home" / ".ssh", Path("/etc/passwd"), Path("/etc/group")]
    assert {f"type=bind,source={path},target={path},readonly" for path in shown} <= set(call.values("--mount="))
    assert f"type=bind,source={agent},target={agent}" in call.values("--mount=")
    assert f"SSH_AUTH_SOCK={agent}" in call.values("--env=")
    assert "readonly" not in " ".join(run(**{**given, "HOST": ""}).values("--mount="))


def test_the_users_home_is_the_one_outside(run: Run, tmp_path: Path) -> None:
    call = run(CONTINUAL_CKPT="~/checkpoints", HOME=str(tmp_path / "home"))
    assert f"CONTINUAL_CKPT={tmp_path}/home/checkpoints" in call.values("--env=")
    assert (tmp_path / "home" / "checkpoints").is_dir()


def test_without_a_command_it_is_a_shell(run: Run) -> None:
    assert list(run().arguments[-2:]) == ["llama31", "bash"]


def test_print_shows_the_command_and_does_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / STRANGE).mkdir()
    given = {"PREPROCESSED_PATH": str(tmp_path / STRANGE), "CONTINUAL_CKPT": "checkpoints"}
    call = run("--print", "bash", "run_llama31.sh", **given)
    assert (call.returncode, list(call.arguments)) == (0, [])
    assert not list((tmp_path / "home").iterdir())
    assert shlex.split(call.stdout)[1:] == list(run("bash", "run_llama31.sh", **given).arguments)


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"IMAGE": ""}, "IMAGE is empty; set it to the name of an image"),
        ({"IMAGE": "/data/llama31.sqsh"}, "IMAGE=/data/llama31.sqsh: not a name that Docker takes"),
        ({"IMAGE": "nvcr.io#nvidia/pytorch:25.09-py3"}, "IMAGE=nvcr.io#nvidia/pytorch:25.09-py3: not a name that"),
        ({"TOKENIZER_PATH": "/nonexistent"}, "TOKENIZER_PATH=/nonexistent: no such directory; make it or correct"),
        ({"DST_PATH": "/nonexistent/x"}, "DST_PATH=/nonexistent: no such directory"),
        ({"JOB_DIR": "/dev/null/runs"}, "/dev/null/runs: cannot be made: Not a directory"),
        ({"PREPROCESSED_PATH": "a\nb"}, "a name that cannot be printed; rename it"),
        ({"PATH": "/nonexistent"}, "docker is not installed; install Docker"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused(run: Run, tmp_path: Path, environment: dict[str, str], line: str) -> None:
    (tmp_path / "home" / "a\nb").mkdir()
    if environment.get("PATH"):  # of all programs, docker alone is missing
        (tmp_path / "bin" / "docker").unlink()
        environment = {}
    call = run(**environment)
    assert (call.returncode, list(call.arguments)) == (2, [])
    assert line in call.stderr
    assert len(call.stderr.splitlines()) == 1, call.stderr


def test_an_unknown_option_is_refused(run: Run) -> None:
    call = run("--help")
    assert (call.returncode, list(call.arguments)) == (2, [])
    assert call.stderr.startswith("run_docker: --help: no such option; the only one is --print")


def test_a_python_without_omegaconf_is_refused(run: Run, tmp_path: Path) -> None:
    bare = tmp_path / "bare" / "bin" / "python"
    bare.parent.mkdir(parents=True)
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -I "$@"\n')
    bare.chmod(0o755)
    call = run(LLAMA31_VENV=str(tmp_path / "bare"))
    assert call.returncode == 2
    assert "lacks omegaconf" in call.stderr and "-m pip install omegaconf==" in call.stderr


@pytest.mark.parametrize(
    ("device", "there", "options"),
    [
        ("auto", "nvidiactl", ["--gpus=all"]),
        ("cuda", "dxg", ["--gpus=all"]),
        ("auto", "kfd", ["--device=/dev/kfd", "--device=/dev/dri", "--security-opt=seccomp=unconfined"]),
        ("cpu", "nvidiactl", []),
        ("auto", "null", []),
    ],
)
def test_gpus_are_given_where_there_are_some(tmp_path: Path, device: str, there: str, options: list[str]) -> None:
    (tmp_path / there).touch()
    assert image_command.gpus(device, tmp_path) == options


def test_cuda_without_a_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DEVICE=cuda: there is no GPU here"):
        image_command.gpus("cuda", tmp_path)
