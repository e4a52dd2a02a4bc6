"""The plan: its text for the benchmark, and that every setting shows up in it, in a record, or is refused."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from claimed import claim_benchmark_data
from golden import Golden
from runs import REPOSITORY, arguments, environment

from llama31.config.departures import departures
from llama31.config.parallel_layout import Layout
from llama31.config.resolve import Resolved, resolve
from llama31.launch import local, prepare, run_directory
from llama31.mlperf.log.writer import MLPerfLog
from llama31.plan import validate
from llama31.plan.plan import Plan
from llama31.plan.validate_slurm import NEEDS_PARTITION
from llama31.settings import Settings


def without_machine(text: str, directory: Path) -> str:
    """A plan without the paths of this machine, and without the blanks that line up what follows them."""
    # Before the repository, which may contain a virtual environment.
    text = re.sub(rf"{re.escape(sys.prefix)}/bin/python[0-9.]*", "PYTHON", text)
    for path, name in ((str(directory), "DATA"), (str(REPOSITORY), "REPOSITORY")):
        text = text.replace(path, name)
    return re.sub(r"(?m)^(  [A-Z_]+=.*?) +(default|config\.sh|command line)", r"\1  \2", text)


def printed_by(*command: str | Path, **exported: str) -> str:
    done = subprocess.run(
        command, env={**environment(), **exported}, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_plan_of_the_benchmark_on_eight_gpus(golden: Golden, tmp_path: Path) -> None:
    """The exact text of `run_llama31.sh --dryrun` and `python3 -m llama31 plan`."""
    given = [
        *arguments(claim_benchmark_data(tmp_path)),
        "DEVICE=cuda",
        "GPU=H100",
        "GPUS_PER_NODE=8",
        "TENSOR_PARALLEL_SIZE=2",
        f"JOB_DIR={tmp_path}/runs",
        "SUBMISSION_ORG=Example & Sons",
    ]
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    sourced = 'source config.sh; exec "$@"'
    commands = (["bash", "run_llama31.sh", "--dryrun"], [sys.executable, "-m", "llama31", "plan"])
    text, other = (
        without_machine(printed_by("bash", "-c", sourced, "-", *command, *given, **no_gpu), tmp_path)
        for command in commands
    )
    assert text == other
    assert not (tmp_path / "runs").exists(), "a plan makes nothing"
    golden.check("plan_benchmark_1x8.txt", text)


def test_the_command_shown_gives_the_same_plan(usual: dict[str, str]) -> None:
    """The command can be copied into a shell, even with special characters in settings."""
    settings = {**usual, "TAG": 'it\'s $HOME "x" `y` \\', "TRAIN_PARTS": "6"}
    shown = printed_by("bash", "run_llama31.sh", "--dryrun", *arguments(settings))
    command = re.search(r"(?m)^  (bash .*)$", shown)
    assert command
    again = printed_by("bash", "-c", f"{command[1]} --dryrun")
    assert again.replace("command line", "default") == shown.replace("command line", "default")


# Every setting


@pytest.fixture
def usual(usual: dict[str, str]) -> dict[str, str]:
    """Settings of a valid run, with a fixed seed instead of a random one for each plan."""
    return {**usual, "SEEDS": "1"}


TWO = {"GPUS_PER_NODE": "2"}
TWO_STAGES = {"GPUS_PER_NODE": "2", "PIPELINE_PARALLEL_SIZE": "2"}
SAVING = {"SAVE_CKPT": "1", "CONTINUAL_CKPT": "/c"}
ON_GPU = {"DEVICE": "cuda", "GPUS_PER_NODE": "2"}

IN_FP8, IN_NVFP4 = {**ON_GPU, "PRECISION": "fp8"}, {**ON_GPU, "PRECISION": "nvfp4"}
SUBMITTED = ("PARTITION", *(name.upper() for name in NEEDS_PARTITION))
"""Settings that change what is submitted to Slurm: tests/launch/test_slurm_script.py."""

PLANNED: dict[str, tuple[str, dict[str, str]]] = {
    "GPUS_PER_NODE": ("2", {}),
    "DEVICE": ("cuda", {}),
    "GPU": ("H200", ON_GPU),
    "PREPROCESSED_PATH": ("a copy", {}),
    "TOKENIZER_PATH": ("a copy", {}),
    "TMP_NPY_INDEX": ("elsewhere", {}),
    "COPY_DATA_TO": ("copies", {}),
    "CLEAR_CACHES": ("1", {}),
    "NUMA_BINDING": ("1", ON_GPU),
    "CLEAR_CACHES_COMMAND": ("purge", {"CLEAR_CACHES": "1"}),
    "TRAIN_PARTS": ("7", {}),
    "N_VALIDATION_SAMPLES": ("41", {}),
    "MOCK_DATA": ("1", {}),
    "SIZE": ("demo", {}),
    "SEQ_LENGTH": ("16", {}),
    "PRECISION": ("fp32", {}),
    "FP8_RECIPE": ("mxfp8", IN_FP8),
    "FP8_AMAX_HISTORY_LEN": ("16", IN_FP8),
    "FP8_AMAX_COMPUTE_ALGO": ("max", IN_FP8),
    "FP8_PARAM_GATHER": ("0", IN_FP8),
    "FP8_DOT_PRODUCT_ATTENTION": ("1", IN_FP8),
    "NUM_LAYERS_AT_START_IN_BF16": ("1", IN_NVFP4),
    "NUM_LAYERS_AT_END_IN_BF16": ("1", IN_NVFP4),
    "GRAD_REDUCE_DTYPE": ("bf16", {"PRECISION": "bf16"}),
    "GBS": ("4", {}),
    "MBS": ("2", {}),
    "MAX_LR": ("1e-3", {}),
    "MIN_LR": ("1e-6", {}),
    "WARMUP_STEPS": ("7", {}),
    "ALLOCATED_SEQUENCES": ("800", {}),
    "MAX_STEPS": ("5000", {}),
    "DECAY_NORMS": ("1", {}),
    "SAMPLES_AVAILABLE": ("800", {}),
    "EVAL_EVERY": ("80", {}),
    "EVAL_SAMPLES": ("12", {}),
    "START_EVAL_AT": ("30000", {}),
    "TARGET": ("4.5", {}),
    "TENSOR_PARALLEL_SIZE": ("2", TWO),
    "PIPELINE_PARALLEL_SIZE": ("2", TWO),
    "VIRTUAL_PIPELINE_SIZE": ("2", TWO_STAGES),
    "CONTEXT_PARALLEL_SIZE": ("2", ON_GPU),
    "SEQUENCE_PARALLEL": ("1", {**ON_GPU, "TENSOR_PARALLEL_SIZE": "2"}),
    "RECOMPUTE_GRANULARITY": ("selective", {}),
    "RECOMPUTE_METHOD": ("block", {"RECOMPUTE_GRANULARITY": "full"}),
    "RECOMPUTE_NUM_LAYERS": ("2", {"RECOMPUTE_GRANULARITY": "full"}),
    "OVERLAP_GRAD_REDUCE": ("1", TWO),
    "OVERLAP_PARAM_GATHER": ("0", {**TWO, "OVERLAP_GRAD_REDUCE": "1"}),
    "TP_COMM_OVERLAP": ("0", {**ON_GPU, "GPUS_PER_NODE": "2", "TENSOR_PARALLEL_SIZE": "2", "SEQUENCE_PARALLEL": "1"}),
    "CUDA_GRAPHS": ("layer", ON_GPU),
    "STOP_AT_STEP": ("50", {}),
    "STEP_TIME_ATOL": ("900", {}),
    "PROFILE": ("torch", {}),
    "PROFILE_STEP_START": ("8", {"PROFILE": "torch"}),
    "PROFILE_STEP_END": ("20", {"PROFILE": "torch"}),
    "PROFILE_RANKS": ("1", {**TWO, "PROFILE": "torch"}),
    "MEMORY_SNAPSHOT": ("1", ON_GPU),
    "HANG_MINUTES": ("5", {}),
    "WARMUP_TRAIN_STEPS": ("5", {}),
    "WARMUP_VALIDATION_STEPS": ("2", {}),
    "GC_INTERVAL": ("100", {}),
    "LOG_INTERVAL": ("10", {}),
    "CONTINUAL_CKPT": ("/d", SAVING),
    "SAVE_EVERY": ("9", SAVING),
    "SAVE_EVERY_MINUTES": ("9", SAVING),
    "KEEP_LAST": ("9", SAVING),
    "SAVE_ASYNC": ("1", SAVING),
}
"""Settings that change what the plan says beside its list of settings: the value, and what it takes besides.

Tests of llama31/recipe.py and llama31/training/benchmark_callback.py cover their effect on training.
"""

CHECKPOINTS = ("SAVE_CKPT", "USE_CKPT", "FROM_HF", "MODEL_CKPT", "START_STEPS")
"""Settings that take a checkpoint, or that others need: test_resume_choice.py and test_validate.py."""

LOGGED = {
    "SUBMISSION_ORG": "Example",
    "SUBMISSION_PLATFORM": "8xH200",
    "SUBMISSION_DIVISION": "open",
    "SUBMISSION_STATUS": "research",
    "CONFIG_FILENAME": "/x/config_mine.sh",
}
"""Settings that change the MLPerf log."""

NAMING = {"JOB_DIR": "elsewhere", "TAG": "mine", "SEEDS": "2"}
"""Settings that change the name of the run directory; the seed also trains, see llama31/train.py."""


def test_every_setting_acts() -> None:
    """The lists together are all settings: none is accepted and then ignored."""
    known = [*SUBMITTED, "NEXP", "WANDB", "MLFLOW_TRACKING_URI", *PLANNED, *CHECKPOINTS, *LOGGED, *NAMING]
    assert sorted(known) == sorted(field.name.upper() for field in fields(Settings))


def resolved_from(settings: dict[str, str]) -> Resolved:
    return prepare.with_absolute_paths(resolve(arguments(settings), {}))


def differs(
    name: str, value: str, usual: dict[str, str], effect: Callable[[Resolved], str], **besides: str
) -> tuple[str, str]:
    """The effect without and with a value of a setting."""
    before, after = (
        effect(resolved_from(given)) for given in ({**usual, **besides}, {**usual, **besides, name: value})
    )
    return before, after


def plan_text(resolved: Resolved) -> str:
    """The plan without its list of settings and without the command that names them."""
    plan = Plan(resolved, validate.check(resolved.settings), local.command(resolved.settings, Path("RUN_DIR")))
    return plan.text().partition("\n\n")[2]


@pytest.mark.parametrize("name", PLANNED)
def test_settings_change_the_plan(name: str, usual: dict[str, str], tmp_path: Path) -> None:
    value, besides = PLANNED[name]
    if value == "a copy":
        value = shutil.copytree(usual[name], tmp_path / "copy")
    if name == "N_VALIDATION_SAMPLES":
        copy = Path(shutil.copytree(usual["PREPROCESSED_PATH"], tmp_path / "copy"))
        for file in copy.glob("*-40-*"):
            shutil.copy(file, copy / file.name.replace("-40-", f"-{value}-"))
        besides = {"PREPROCESSED_PATH": str(copy)}
    before, after = differs(name, value, usual, plan_text, **besides)
    assert before != after


@pytest.mark.parametrize(("name", "value"), LOGGED.items())
def test_settings_change_the_log(name: str, value: str, usual: dict[str, str], tmp_path: Path) -> None:
    def log(resolved: Resolved) -> str:
        path = tmp_path / "mlperf.log"
        path.unlink(missing_ok=True)
        log = MLPerfLog(path)
        log.describe(resolved.settings, seed=1, data_parallel_size=1, train_samples=1, departures=[])
        log.close()
        return re.sub(r'"time_ms": \d+', "", path.read_text())

    before, after = differs(name, value, usual, log)
    assert before != after and Path(value).name in after


@pytest.mark.parametrize(("name", "value"), NAMING.items())
def test_settings_change_the_run_directory(
    name: str, value: str, usual: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_directory.time, "strftime", lambda _: "TIME")
    monkeypatch.chdir(tmp_path)
    before, after = differs(name, value, usual, lambda resolved: str(run_directory.make(resolved.settings)))
    assert before == str(tmp_path / "runs" / "tiny-gbs8-seed1-TIME")
    assert before != after and value in after.removeprefix(str(tmp_path))


# Parts of the plan


def test_computed_defaults_are_shown_with_their_values(usual: dict[str, str]) -> None:
    resolved = resolved_from({**usual, "MAX_LR": "1e-3", "GBS": "16"})
    text = Plan(resolved, validate.check(resolved.settings), []).text()
    for line in (
        r"MIN_LR=0\.0001 +default: 0\.1 x MAX_LR",
        r"WARMUP_STEPS=1024 +default: 10% of ALLOCATED_SEQUENCES / GBS",
        r"TMP_NPY_INDEX=\S+/runs/index +default: JOB_DIR/index",
        r"STOP_AT_STEP= +default: none",
        r"SEEDS=1 +command line",
    ):
        assert re.search(rf"(?m)^  {line}$", text), line
    resolved = resolved_from({**usual, "MIN_LR": "0", "WARMUP_STEPS": "0"})
    text = Plan(resolved, validate.check(resolved.settings), []).text()
    assert re.search(r"(?m)^  MIN_LR=0\.0 +command line$", text)
    assert re.search(r"(?m)^  WARMUP_STEPS=0 +command line$", text)


@pytest.mark.parametrize(
    ("eval_every", "start", "line"),
    [
        ("80", "0", "every 10 steps (80 sequences) from step 10 on"),
        ("81", "0", "every 11 steps (88 sequences) from step 11 on"),
        ("80", "80", "every 10 steps (80 sequences) from step 10 on"),
        ("80", "81", "every 10 steps (80 sequences) from step 20 on"),
    ],
)
def test_first_evaluation(eval_every: str, start: str, line: str, usual: dict[str, str]) -> None:
    text = plan_text(resolved_from({**usual, "EVAL_EVERY": eval_every, "START_EVAL_AT": start}))
    assert line in text and "before any evaluation" not in text


def test_a_run_that_ends_before_its_first_evaluation_is_reported(usual: dict[str, str]) -> None:
    text = plan_text(resolved_from({**usual, "EVAL_EVERY": "80", "STOP_AT_STEP": "9"}))
    assert "ends without the target after 9 steps (72 of 2,480 sequences), before any evaluation" in text


def test_layout_arithmetic() -> None:
    settings = resolve(["NNODES=4", "GPUS_PER_NODE=8", "TENSOR_PARALLEL_SIZE=2", "GBS=64", "MBS=2"], {}).settings
    layout = Layout.of(settings)
    assert (layout.world_size, layout.model_parallel_size, layout.data_parallel_size) == (32, 2, 16)
    assert (layout.accumulation_steps, layout.eval_interval) == (2, 192)


def test_departures_are_in_the_plan(usual: dict[str, str]) -> None:
    resolved = resolved_from(usual)
    text = plan_text(resolved)
    found = departures(resolved.settings, validate.check(resolved.settings).validation.tokens)
    assert found and all(f"\n  - {line}\n" in text for line in found)


@pytest.mark.parametrize("changes", [{}, {**ON_GPU, "GPU": "H100"}])
def test_memory_disk_and_time_are_shown_before_a_run_too(changes: dict[str, str], usual: dict[str, str]) -> None:
    resolved = resolved_from({**usual, **changes})
    plan = Plan(resolved, validate.check(resolved.settings), [])
    estimates = plan.text().partition("\nMemory, disk and time\n")[2].partition("\n\n")[0]
    assert len(estimates.splitlines()) == (5 if changes else 2) and estimates in plan.summary()
    assert ("memory of a GPU: about " in estimates) == ("s a step" in estimates) == bool(changes)
