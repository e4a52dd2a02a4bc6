"""From what a user types to the ranks: run_llama31.sh, the verbs, the run directory and what it records."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from light_imports import imported_by, is_light
from runs import REPOSITORY, arguments, call, environment

from llama31.cli import launch
from llama31.cli.main import app
from llama31.common.errors import UserError
from llama31.config import devices, paths, resolve
from llama31.launch import local, prepare, rank_command, run_directory
from llama31.run_dir import record
from llama31.run_dir.events import FAILED
from llama31.settings import Device, Settings

SCRIPT = REPOSITORY / "run_llama31.sh"


# run_llama31.sh


def test_script_works_from_anywhere_through_links_and_beside_another_llama31(
    usual: dict[str, str], tmp_path: Path
) -> None:
    """The checkout, the environment and the link are in directories whose names a shell would split."""
    odd = tmp_path / "it's $HOME `x` *"
    copy = odd / "checkout"
    shutil.copytree(REPOSITORY / "llama31", copy / "llama31", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SCRIPT, copy)
    (odd / "venv").symlink_to(sys.prefix)
    elsewhere = odd / "elsewhere"
    (elsewhere / "llama31").mkdir(parents=True)
    (elsewhere / "llama31" / "__init__.py").write_text("raise SystemExit('the wrong llama31')\n")
    (elsewhere / "run me.sh").symlink_to(copy / SCRIPT.name)
    done = call(
        "bash", "run me.sh", "--dryrun", *arguments(usual), "JOB_DIR=my runs",
        cwd=elsewhere, LLAMA31_VENV=str(odd / "venv"), CDPATH="/",
    )  # fmt: skip
    if sys.version_info >= (3, 11):  # 3.10 has no PYTHONSAFEPATH
        assert (done.returncode, done.stderr) == (0, "")
        assert f"JOB_DIR={shlex.quote(str(elsewhere / 'my runs'))} " in done.stdout
        assert shlex.quote(str(copy / "pretrain_llama31.py")) in done.stdout


def test_script_without_its_environment(tmp_path: Path) -> None:
    done = call("bash", SCRIPT, "--dryrun", LLAMA31_VENV="/no such")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "LLAMA31_VENV=/no such has no bin/python; bash dev/setup.sh makes it\n"

    bare = tmp_path / "bin" / "python3"  # a python without packages, as a system's is
    bare.parent.mkdir()
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    copy = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "llama31", copy / "llama31", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SCRIPT, copy)
    path = f"{bare.parent}:{os.environ['PATH']}"
    done = call("bash", copy / SCRIPT.name, "--dryrun", LLAMA31_VENV="", PATH=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r".* lacks the packages; bash dev/setup.sh creates .*\n", done.stderr)


def test_script_forwards_exit_codes_and_prints_no_traceback(usual: dict[str, str]) -> None:
    done = call("bash", SCRIPT, *arguments(usual), "GSB=3", "GBS=9", "MBS=2", "GPUS_PER_NODE=many", TARGET="low")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "GSB=3: no such setting; did you mean GBS?",
        "TARGET=low (environment): not a number, such as 3.3",
        "GPUS_PER_NODE=many (command line): not a whole number, such as 1",
        "GBS=9 is not a multiple of data parallel*MBS=1*2; GBS=8 or GBS=10 works",
    ]
    assert not Path(usual["JOB_DIR"]).exists()


def test_plan_into_a_closed_pipe(usual: dict[str, str]) -> None:
    done = call("bash", "-c", 'bash "$@" | head -n 1', "-", SCRIPT, "--dryrun", *arguments(usual))
    assert (done.stdout, done.stderr) == ("Settings\n", "")


# The verbs

VERBS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)], ids=str)
def test_help_is_light(verb: Sequence[str]) -> None:
    modules, code, said = imported_by(*verb, "--help")
    assert (code, said) == (0, "")
    assert is_light(modules)


def test_help_of_a_run_names_every_option() -> None:
    done = call("bash", SCRIPT, "--help")
    assert all(option in done.stdout for option in ("[--dryrun]", "[--wait]", "[--allow-change NAME]", "[NAME=value"))


def test_help_names_every_verb() -> None:
    """Without a verb it is shown, too."""
    done = call(sys.executable, "-m", "llama31")
    assert done.returncode == 0
    assert done.stdout == call(sys.executable, "-m", "llama31", "-h").stdout
    assert {"run", "plan", "tokenize", "check", "status", "verify"} <= set(VERBS) and all(
        f"  {verb} " in done.stdout for verb in VERBS
    )


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["tokenise"], "No such command 'tokenise'. Did you mean 'tokenize'?"),
        (["tokenize", "--inptu", "x"], "No such option: --inptu (Possible options: --input)"),
        (["tokenize"], "Missing option '--input'."),
        (["check"], "Missing argument 'RUN_DIR_OR_LOG'."),
        (["check", "--ruleset"], "Option '--ruleset' requires an argument."),
        (["run", "--dry-run", "GBS=x"], "--dry-run: no such option; --dryrun shows the plan and runs nothing"),
        (["summary", "/none"], "/none: no run directory, it has no settings.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_typing_errors_are_a_line(typed: list[str], line: str) -> None:
    done = call(sys.executable, "-m", "llama31", *typed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == line and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 or typed[0] == "run"


# The run directory


def test_run_directories_do_not_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_directory.time, "strftime", lambda _: "TIME")
    settings = replace(Settings(), job_dir=str(tmp_path / "a b" / "runs"), seeds="7", tag="$t")
    made = [run_directory.make(settings) for _ in range(3)]
    assert [directory.name for directory in made] == [f"$t-8b-gbs32-seed7-TIME{end}" for end in ("", "-1", "-2")]
    assert all(directory.is_dir() for directory in made)


@pytest.mark.parametrize("job_dir", ["/dev/null", "/proc/nowhere", "/" + "x" * 300])
def test_run_directory_that_cannot_be_made(job_dir: str) -> None:
    with pytest.raises(UserError, match=f"^JOB_DIR={job_dir}: .* cannot be created: ") as error:
        run_directory.make(replace(Settings(), job_dir=job_dir, seeds="7"))
    assert len(error.value.lines) == 1


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    given = ["JOB_DIR=a/runs", "TOKENIZER_PATH=~/tokenizer", "PREPROCESSED_PATH=/data", "TAG=a"]
    settings = prepare.with_absolute_paths(resolve.resolve(given, {})).settings
    assert (settings.job_dir, settings.tokenizer_path) == (str(tmp_path / "a/runs"), "/home/user/tokenizer")
    assert (settings.preprocessed_path, settings.tmp_npy_index, settings.tag) == ("/data", "", "a")
    assert all(name in Settings.__dataclass_fields__ for name in prepare.PATH_SETTINGS)
    assert {name for name in Settings.__dataclass_fields__ if name.endswith(("_path", "_dir", "_ckpt"))} - {
        "use_ckpt",
        "save_ckpt",
    } <= set(prepare.PATH_SETTINGS)


# The ranks' environment


def test_cpu_ranks_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_command.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    for count, threads in ((1, "8"), (3, "2"), (16, "1")):
        env = rank_command.environment(replace(Settings(), device=Device.cpu, gpus_per_node=count), os.environ)
        assert (env["OMP_NUM_THREADS"], env["CUDA_VISIBLE_DEVICES"]) == (threads, "")
        assert env["PYTHONPATH"] == f"{REPOSITORY}:/mine"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert rank_command.environment(replace(Settings(), device=Device.cpu), os.environ)["OMP_NUM_THREADS"] == "5"
    monkeypatch.delenv("OMP_NUM_THREADS")
    settings = replace(Settings(), device=Device.cuda, gpus_per_node=8)
    assert rank_command.environment(settings, os.environ)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert rank_command.environment(replace(Settings(), device=Device.cuda), os.environ)["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("settings", "connections"),
    [
        (Settings(device=Device.cuda, gpus_per_node=2), None),
        (Settings(device=Device.cpu, gpus_per_node=2, tensor_parallel_size=2), None),
        (Settings(device=Device.cuda, gpus_per_node=2, tensor_parallel_size=2), "1"),
        (Settings(device=Device.cuda, gpus_per_node=2, context_parallel_size=2, gpu="H200"), "1"),
        (Settings(device=Device.cuda, gpus_per_node=2, tensor_parallel_size=2, gpu="B200"), "32"),
    ],
)
def test_gpus_get_the_connections_that_overlap_needs(settings: Settings, connections: str | None) -> None:
    assert rank_command.environment(settings, {}).get("CUDA_DEVICE_MAX_CONNECTIONS") == connections
    assert (
        rank_command.environment(settings, {"CUDA_DEVICE_MAX_CONNECTIONS": "8"})["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"
    )


# A run with simulated ranks

RANKS = """
import signal, sys, time
from pathlib import Path
from llama31.run_dir import record
from llama31.run_dir.events import Outcome
run_dir, way = Path(sys.argv[1]), sys.argv[2]
def end(signum, frame):
    record.store_outcome(run_dir, Outcome("aborted", signal.Signals(signum).name, 130, 3, 24))
    sys.exit(1)
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, end)
if way == "start":  # not yet where it handles signals
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
if way in ("wait", "start"):
    (run_dir / "ready").touch()
    time.sleep(60)
if way == "end":
    record.store_outcome(run_dir, Outcome("success", "it did", 0, 5, 40))
sys.exit(way == "fail")
"""


def stand_in(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "command", lambda _, run_dir: [sys.executable, "-c", RANKS, str(run_dir), way])


def start(usual: dict[str, str], *given: str) -> tuple[int, Path]:
    """Exit code of a run in this process, and its directory."""
    code = launch.run([*arguments(usual), *given])
    return code, (Path(usual["JOB_DIR"]) / "latest").resolve()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings in the environment."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("clean")
def test_a_run_says_all_about_itself(
    usual: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("end", monkeypatch)
    for name, value in {"GBS": "4", "MAX_LR": "1e-3", "NCCL_DEBUG": "INFO", "API_TOKEN": "secret"}.items():
        monkeypatch.setenv(name, value)
    code, run_dir = start(usual, "TAG=it's mine")
    printed = capsys.readouterr().out
    assert code == 0 and run_dir.name.startswith("it's mine-tiny-gbs8-seed")
    assert f"run directory: {run_dir}" in printed and "success: it did\nsteps 5, samples 40," in printed

    settings = record.load_settings(run_dir)
    text = (run_dir / paths.RECORD).read_text()
    said = json.loads(text)
    assert int(settings.seeds) >= 0 and f"seed{settings.seeds}-" in run_dir.name, "the seed that was drawn is stored"
    assert said["arguments"] == [*arguments(usual), "TAG=it's mine"]
    assert said["origins"]["gbs"] == "command line" and said["origins"]["max_lr"] == "environment"
    assert said["origins"]["seeds"] == "default" and said["directory"] == str(Path.cwd())
    assert said["environment"]["NCCL_DEBUG"] == "INFO" and said["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert "secret" not in text
    assert said["versions"]["megatron-core"] and re.fullmatch(r"[0-9a-f]{40}|", said["commit"] or "")

    # The replay command gives the same settings in an empty environment.
    assert said["repeated_by"].startswith(f"bash {SCRIPT} ")
    again = prepare.with_absolute_paths(resolve.resolve(shlex.split(said["repeated_by"])[2:], {}))
    assert again.settings == settings


@pytest.mark.usefixtures("clean")
def test_experiments_run_one_after_the_other(
    usual: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("end", monkeypatch)
    code, _ = start(usual, "NEXP=3", "SEEDS=5 6")
    printed = capsys.readouterr().out
    made = sorted(Path(usual["JOB_DIR"]).glob("tiny-*"), key=lambda path: path.stat().st_mtime)
    seeds = [record.load_settings(run_dir).seeds for run_dir in made]
    assert code == 0 and seeds[:2] == ["5", "6"] and len(set(seeds)) == 3
    assert [f"experiment {number} of 3: seed {seed}\n" in printed for number, seed in enumerate(seeds, 1)] == [True] * 3


@pytest.mark.usefixtures("clean")
def test_dry_run_of_experiments_shows_them_as_they_would_be(
    usual: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """No seed is drawn that the real submission would not have."""
    for given, seeds, said in (
        (["NEXP=3", "SEEDS=5 6"], "'5 6'", "experiments: 3; seeds: 5, 6, 1 drawn at submission"),
        (["NEXP=2"], "", "experiments: 2; seeds: 2 drawn at submission"),
        (["SEEDS=5"], "5", "experiments: 1; seeds: 5"),
    ):
        assert launch.run([*arguments(usual), *given, "PARTITION=p", "--dryrun"]) == 0
        printed = capsys.readouterr().out
        assert f"\nSubmission\n  {said}\n" in printed
        assert re.findall(r"^  SEEDS=('.*?'|\S*) +", printed, re.MULTILINE) == [seeds]
        (command,) = (line for line in printed.splitlines() if line.startswith(f"  bash {SCRIPT} "))
        assert {*given} <= set(shlex.split(command))


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(("codes", "started", "code"), [([0, 3, 0], 3, 3), ([0, 130, 0], 2, 130)])
def test_experiments_that_fail(
    codes: list[int], started: int, code: int, usual: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst exit code counts; an interrupt also skips the remaining runs."""
    begun: list[int] = []

    def run(*_: object) -> int:
        begun.append(codes[len(begun)])
        return begun[-1]

    monkeypatch.setattr(local, "run", run)
    assert launch.run([*arguments(usual), "NEXP=3"]) == code
    assert len(begun) == started


@pytest.mark.usefixtures("clean")
def test_ranks_that_exit_without_recording_an_outcome(
    usual: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("fail", monkeypatch)
    code, run_dir = start(usual)
    outcome = record.load_outcome(run_dir)
    assert code == FAILED and outcome and outcome.status == "aborted"
    assert (
        f"aborted: all ranks exited without recording an outcome (torchrun's exit code 1); see {run_dir}"
        in capsys.readouterr().out
    )


def test_a_launcher_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As torchrun, where it cannot make its own directory."""
    log = tmp_path / paths.RANK_LOGS / "torchrun.log"
    log.parent.mkdir()
    log.write_text("Traceback (most recent call last):\nOSError: [Errno 28] No space left on device: '/data/runs'\n")
    assert run_directory.end(tmp_path, Settings(), 1, "torchrun", log=log) == FAILED
    said = "(torchrun's exit code 1): OSError: [Errno 28] No space left on device: '/data/runs'; see"
    assert said in capsys.readouterr().out


@pytest.mark.usefixtures("clean")
def test_a_run_is_refused_where_the_gpus_are_missing(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    with pytest.raises(UserError, match=r"^DEVICE=cuda: this machine has no GPU; DEVICE=cpu works$"):
        start({**usual, "DEVICE": "cuda"})
    assert not Path(usual["JOB_DIR"]).exists()
    assert launch.run([*arguments({**usual, "DEVICE": "cuda"}), "--dryrun"]) == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
@pytest.mark.parametrize(
    ("way", "outcome"),
    [
        ("wait", "aborted: SIGINT\nsteps 3, samples 24,"),
        ("start", "aborted: interrupted; the ranks exited without recording an outcome\nsteps 0, samples 0,"),
    ],
    ids=["training", "starting"],
)
def test_what_ends_the_launcher_interrupts_the_ranks(
    way: str, outcome: str, signum: signal.Signals, usual: dict[str, str]
) -> None:
    program = (
        "import signal, sys\nfrom llama31.cli import launch\nfrom llama31.launch import local\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where these tests run in the background
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"local.command = lambda _, run_dir: [sys.executable, '-c', {RANKS!r}, str(run_dir), {way!r}]\n"
        "sys.exit(launch.run(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, *arguments(usual)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True) as launcher:
        ready = Path(usual["JOB_DIR"]) / "latest" / "ready"
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        launcher.send_signal(signum)
        printed, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert outcome in printed
