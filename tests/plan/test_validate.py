"""Invalid settings: one line for each problem, and the value that the line suggests works."""

import itertools
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from checkout import GOLDEN
from golden import Golden
from tiny import VOCABULARY
from validated_settings import lines_of, settings_of, suggested

from llama31 import rules
from llama31.common.errors import UserError
from llama31.config import devices, paths, transformer_engine
from llama31.config.departures import departures
from llama31.config.resolve import AT_MOST
from llama31.data.token_file import bin_path
from llama31.launch.prepare import PATH_SETTINGS
from llama31.plan import validate
from llama31.settings import Device, Precision, RecomputeGranularity, Settings


def test_a_run_that_works(usual: dict[str, str]) -> None:
    settings = settings_of(usual)
    data = validate.check(settings)
    assert (data.vocab_size, len(data.train)) == (VOCABULARY, 2)
    assert data.available_samples(32) == sum((part.tokens - 1) // 32 for part in data.train)
    assert not Path(settings.job_dir).exists(), "a look makes nothing"


def golden_problems() -> list[tuple[str, str]]:
    """(arguments, line) of golden/problems.txt."""
    text = (GOLDEN / "problems.txt").read_text()
    lines = [line.strip() for line in text.splitlines() if line and not line.startswith("#")]
    return list(zip(lines[::2], lines[1::2], strict=True))


NO_CHANGE_OF_ONE_SETTING_WORKS = ["GPUS_PER_NODE=3 TENSOR_PARALLEL_SIZE=3"]


@pytest.mark.parametrize(("arguments", "line"), golden_problems(), ids=lambda value: value.partition(";")[0])
def test_what_a_line_says_and_that_what_it_suggests_works(
    arguments: str, line: str, golden: Golden, usual: dict[str, str]
) -> None:
    given = shlex.split(arguments)
    validation = bin_path(paths.validation_prefix(settings_of(usual, *given)))
    found = [each.replace(str(validation), "VALIDATION.bin") for each in lines_of(usual, *given)]
    line = golden.check_answer("problems.txt", arguments, line, found)
    assert suggested(line) or "not one of" in line or arguments in NO_CHANGE_OF_ONE_SETTING_WORKS
    for suggestion in suggested(line):
        assert lines_of(usual, *given, *suggestion.split(" with ")) == [], suggestion


def test_a_suggestion_breaks_nothing_else(usual: dict[str, str]) -> None:
    """28 is a multiple of 4, too, but would leave interleaving an odd number of micro batches."""
    arguments = ["GPUS_PER_NODE=2", "PIPELINE_PARALLEL_SIZE=2", "VIRTUAL_PIPELINE_SIZE=2", "MBS=4", "GBS=30"]
    found = lines_of(usual, *arguments)
    assert "GBS=30 is not a multiple of data parallel*MBS=1*4; GBS=24 or GBS=32 works" in found
    for size in ("GBS=24", "GBS=32"):
        assert lines_of(usual, *arguments, size) == []


def test_all_problems_are_shown_at_once(usual: dict[str, str]) -> None:
    arguments = ["GBS=9", "MBS=2", "PIPELINE_PARALLEL_SIZE=3", "GPUS_PER_NODE=3", "PRECISION=fp8", "NNODES=2"]
    found = lines_of({**usual, "TOKENIZER_PATH": "/none", "JOB_DIR": "/dev/null/x"}, *arguments, "EVAL_SAMPLES=99999")
    starts = ["NNODES=2:", "GBS=9 ", "PIPELINE_PARALLEL_SIZE=3 ", "PRECISION=fp8:", "TOKENIZER_PATH=/none:", "JOB_DIR="]
    for start in starts:
        assert sum(line.startswith(start) for line in found) == 1, (start, found)


# The device


@pytest.mark.parametrize(
    ("files", "visible", "number"),
    [
        ([], None, 0),
        (["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"], None, 2),
        (["nvidia0", "nvidia1", "nvidiactl"], "1", 1),
        (["nvidia0", "nvidiactl"], "", 0),
        (["nvidia0", "nvidiactl"], "-1", 0),
        (["dxg"], None, None),
        (["kfd"], None, None),
    ],
)
def test_number_of_gpus(
    files: list[str], visible: str | None, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in files:
        (tmp_path / file).touch()
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == number
    assert devices.device(Settings()) is (Device.cpu if number == 0 else Device.cuda)
    assert devices.device(replace(Settings(), device=Device.cuda)) is Device.cuda


def test_auto_without_a_gpu_is_refused_what_needs_one(usual: dict[str, str]) -> None:
    (line,) = lines_of(usual, "DEVICE=auto", "PRECISION=fp8")
    assert line.startswith("PRECISION=fp8: needs CUDA")


def test_a_gpu_without_transformer_engine(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 1)
    monkeypatch.setattr(transformer_engine.importlib.util, "find_spec", lambda _: None)
    assert lines_of(usual, "DEVICE=auto", "PRECISION=fp8") == [
        "PRECISION=fp8: needs CUDA and Transformer Engine, which is not installed here; PRECISION=bf16 works"
    ]
    monkeypatch.setattr(transformer_engine.importlib.util, "find_spec", lambda _: "it is")
    assert lines_of(usual, "DEVICE=auto", "PRECISION=fp8") == []


@pytest.mark.parametrize(
    "name",
    [
        field.name.upper()
        for field in fields(Settings)
        if field.type in (int, int | None) and field.name not in AT_MOST  # those are bounded before
    ],
)
def test_enormous_numbers_are_answered_at_once(name: str, usual: dict[str, str]) -> None:
    lines_of(usual, f"{name}={10**15 + 37}")


@pytest.mark.parametrize(
    ("here", "line"),
    [
        (0, "DEVICE=cuda: this machine has no GPU; DEVICE=cpu works"),
        (2, "GPUS_PER_NODE=8: this machine has 2; GPUS_PER_NODE=2 works"),
        (8, None),
        (None, None),
    ],
)
def test_missing_gpus(here: int | None, line: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: here)
    assert devices.missing_gpus(replace(Settings(), device=Device.cuda, gpus_per_node=8)) == line
    assert devices.missing_gpus(replace(Settings(), device=Device.cpu, gpus_per_node=8)) is None


# The GPU's memory


def of_eight_gpus(data: dict[str, str], *arguments: str) -> list[str]:
    usual = {**data, "DEVICE": "cuda", "GPUS_PER_NODE": "8"}
    return lines_of(usual, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words", "works"),
    [
        ("GPU=H200 MBS=2", "GPU=H200: 141 GB, but each would need about 156.5 GB: weights 16.1,",
         ["RECOMPUTE_GRANULARITY=selective", "MBS=1"]),
        ("GPU=H100", "GPU=H100: 80 GB, but each would need about 110.9 GB: weights 16.1, gradients 32.1,",
         ["RECOMPUTE_GRANULARITY=full", "TENSOR_PARALLEL_SIZE=2"]),
        ("GPU=H100 RECOMPUTE_GRANULARITY=full RECOMPUTE_METHOD=block RECOMPUTE_NUM_LAYERS=9",
         "GPU=H100: 80 GB, but each would need about 100.4 GB:", ["RECOMPUTE_NUM_LAYERS=27", "TENSOR_PARALLEL_SIZE=2"]),
        ("GPU=H100 GPUS_PER_NODE=1", "GPU=H100: 80 GB, but each would need about 195.2 GB:",
         ["TENSOR_PARALLEL_SIZE=4 with GPUS_PER_NODE=4", "TENSOR_PARALLEL_SIZE=8 with GPUS_PER_NODE=8"]),
        ("GPU=H100 GPUS_PER_NODE=4 TENSOR_PARALLEL_SIZE=4 MBS=32", "GPU=H100: 80 GB, but each would need about",
         ["MBS=2", "MBS=1"]),
        ("GPU=H100 MBS=32 GBS=256", "GPU=H100: 80 GB, but each would need about",
         ["MBS=1 with RECOMPUTE_GRANULARITY=full", "MBS=1 with TENSOR_PARALLEL_SIZE=2"]),
        ("GPU=H200 PRECISION=fp32", "GPU=H200: 141 GB, but each would need about 160.1 GB: weights 32.1,",
         ["RECOMPUTE_GRANULARITY=selective", "TENSOR_PARALLEL_SIZE=2"]),
    ],
)  # fmt: skip
def test_a_run_that_does_not_fit_is_refused(
    arguments: str, words: str, works: list[str], benchmark_data: dict[str, str]
) -> None:
    given = arguments.split()
    (line,) = of_eight_gpus(benchmark_data, *given)
    assert line.startswith(words) and suggested(line) == works
    for suggestion in works:
        assert of_eight_gpus(benchmark_data, *given, *suggestion.split(" with ")) == [], suggestion


def test_only_values_that_fit_the_gpu_are_suggested(benchmark_data: dict[str, str]) -> None:
    (line,) = of_eight_gpus(benchmark_data, "GPU=H100", "GBS=30")
    assert line.startswith("GBS=30 is not a multiple of ") and suggested(line) == []
    (line,) = of_eight_gpus(benchmark_data, "GPU=H200", "GBS=30")
    assert suggested(line) == ["GBS=24", "GBS=32"]


def test_memory_is_not_checked_without_a_name_for_the_gpu(benchmark_data: dict[str, str]) -> None:
    assert of_eight_gpus(benchmark_data, "GPU=", "MBS=4") == []


def test_the_memory_of_what_cannot_run_is_not_asked(benchmark_data: dict[str, str]) -> None:
    lines = of_eight_gpus(benchmark_data, "GPU=H100", "PIPELINE_PARALLEL_SIZE=1000000007")
    assert lines and not [line for line in lines if line.startswith("GPU=")]


# The closed division


def test_the_benchmark_departs_from_nothing() -> None:
    assert departures(Settings(), rules.VALIDATION_TOKENS) == []
    assert departures(Settings()) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"size": "tiny"}, "SIZE=tiny: the closed division has 8b"),
        ({"seq_length": 4096}, "SEQ_LENGTH=4096: the closed division has 8192"),
        ({"max_steps": 1000}, "MAX_STEPS=1000: the closed division has 1200000"),
        ({"eval_every": 1000}, "EVAL_EVERY=1000: the closed division has 12288"),
        ({"eval_samples": 512}, "EVAL_SAMPLES=512: the closed division has 1024"),
        ({"start_eval_at": 1}, "START_EVAL_AT=1: the closed division has 0"),
        ({"target": 3.4}, "TARGET=3.4: the closed division has 3.3"),
        ({"n_validation_samples": 300}, "N_VALIDATION_SAMPLES=300: the closed division has 91205"),
        ({"min_lr": 0.0}, "MIN_LR=0.0: the closed division has 0.1 x MAX_LR, 8e-05"),
        ({"train_parts": "5 6"}, "TRAIN_PARTS=5 6: the closed division trains on parts 6 7"),
        ({"use_ckpt": True, "from_hf": True}, "FROM_HF=1: the closed division starts from random weights"),
    ],
)
def test_each_departure_is_one_line(changes: dict[str, Any], line: str) -> None:
    assert departures(replace(Settings(), **changes), rules.VALIDATION_TOKENS) == [line]


def test_validation_data_other_than_the_benchmarks_is_a_departure() -> None:
    assert departures(Settings(), 100) == ["the validation set has 100 tokens: the closed division's has 47186855"]


@pytest.mark.parametrize(
    "changes",
    [
        {"gbs": 128, "mbs": 2, "max_lr": 2e-3, "warmup_steps": 256},
        {"max_lr": 1e-3, "min_lr": 1e-4},
        {"nnodes": 4, "gpus_per_node": 8, "tensor_parallel_size": 4, "pipeline_parallel_size": 2},
        {"precision": Precision.fp8, "context_parallel_size": 2, "sequence_parallel": True},
        {"recompute_granularity": RecomputeGranularity.selective, "overlap_grad_reduce": False},
        {"train_parts": "6"},
        {"train_parts": "7 6"},
        {"seeds": "3", "stop_at_step": 5, "step_time_atol": 900, "tag": "x"},
        {"use_ckpt": True, "model_ckpt": "/c", "start_steps": 100},
    ],
    ids=str,
)
def test_what_the_closed_division_leaves_free(changes: dict[str, Any]) -> None:
    assert departures(replace(Settings(), **changes), rules.VALIDATION_TOKENS) == []


def test_check_raises_all_lines(usual: dict[str, str]) -> None:
    with pytest.raises(UserError) as error:
        validate.check(settings_of(usual, "GBS=9", "MBS=2", "NNODES=3"))
    assert len(error.value.lines) == 2


def test_paths_with_blanks_and_dollars_are_paths(usual: dict[str, str]) -> None:
    settings = settings_of(usual)
    for name in PATH_SETTINGS:
        if value := getattr(settings, name):
            assert usual[name.upper()] == value
    assert " $HOME " in settings.preprocessed_path and validate.check(settings)


@pytest.mark.parametrize(("world", "tensor", "pipeline"), [*itertools.product((1, 2, 4, 8), (1, 2), (1, 2, 4))])
def test_layouts_are_taken_if_and_only_if_they_divide(
    world: int, tensor: int, pipeline: int, usual: dict[str, str]
) -> None:
    arguments = [f"GPUS_PER_NODE={world}", f"TENSOR_PARALLEL_SIZE={tensor}", f"PIPELINE_PARALLEL_SIZE={pipeline}"]
    assert (lines_of(usual, *arguments) == []) == (world % (tensor * pipeline) == 0)
