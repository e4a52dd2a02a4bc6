"""Settings: their names, where a value comes from, what is refused, and what is stored."""

import os
import re
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from light_imports import imported_by, is_light
from runs import REPOSITORY, arguments, environment, exports_after

from llama31.common.errors import UserError
from llama31.config import resolve
from llama31.run_dir import record
from llama31.settings import (
    AmaxAlgorithm,
    Container,
    CudaGraphs,
    Device,
    Division,
    Fp8Recipe,
    Precision,
    Profiler,
    RecomputeGranularity,
    RecomputeMethod,
    ReduceType,
    Settings,
    Status,
    documentation,
    names,
    shown,
    to_dict,
)

FIELDS = {field.name: field for field in fields(Settings)}
CONFIG = REPOSITORY / "config.sh"


def settings_of(*arguments: str, **exported: str) -> Settings:
    return resolve.resolve(arguments, exported).settings


def lines_of(*arguments: str, **exported: str) -> list[str]:
    with pytest.raises(UserError) as error:
        resolve.resolve(arguments, exported)
    return error.value.lines


# Names


def test_every_field_has_a_docstring() -> None:
    assert list(documentation()) == list(FIELDS)
    for name, text in documentation().items():
        assert re.fullmatch(r"[A-Z].*\.", text), f"{name}: {text}"


def test_each_number_has_a_range() -> None:
    numbers = [name for name, field in FIELDS.items() if re.search(r"\b(int|float)\b", str(field.type))]
    assert sorted(numbers) == sorted([*resolve.POSITIVE, *resolve.NOT_NEGATIVE])


# config.sh


def test_config_exports_exactly_the_settings_with_their_defaults() -> None:
    exported = exports_after("source config.sh")
    assert sorted(exported) == sorted(names())
    assert exported.pop("CONFIG_FILENAME") == str(CONFIG)
    resolved = resolve.resolve([f"{name}={value}" for name, value in exported.items()], {})
    assert resolved.settings == Settings()
    for name, value in exported.items():
        assert value == shown(getattr(Settings(), name.lower())), name


def test_config_says_of_each_setting_what_its_docstring_says_in_the_same_order() -> None:
    lines = CONFIG.read_text().splitlines()
    found = {
        lines[i].removeprefix("export ").split("=")[0]: lines[i - 1].removeprefix("# ")
        for i in range(len(lines))
        if lines[i].startswith("export ") and "=" in lines[i]
    }
    wanted = {name.upper(): text for name, text in documentation().items() if name != "config_filename"}
    assert list(found.items()) == list(wanted.items())


@pytest.mark.parametrize("file", [CONFIG, *sorted((REPOSITORY / "configs").glob("*.sh"))], ids=lambda file: file.name)
def test_configurations_contain_only_settings_and_name_themselves(file: Path) -> None:
    exported = exports_after(f"source {file.relative_to(REPOSITORY)}")
    assert exported["CONFIG_FILENAME"] == str(file)
    assert resolve.read([], exported).problems == []


def test_config_finds_itself_from_anywhere(tmp_path: Path) -> None:
    """Sourced by a relative path, also from another sourced file, with `set -u` and a misleading CDPATH."""
    directory = tmp_path / "a b"
    directory.mkdir()
    (directory / "config.sh").write_text(CONFIG.read_text())
    (directory / "config_own.sh").write_text('source "a b/config.sh"\nexport GBS=16\n')
    (directory / "script.sh").write_text('source "a b/config.sh"\n')
    for file, named in {"config.sh": "config.sh", "config_own.sh": "config_own.sh", "script.sh": "config.sh"}.items():
        exported = exports_after(f"source 'a b/{file}'", tmp_path, CDPATH=f"/:{REPOSITORY}")
        assert exported["CONFIG_FILENAME"] == str(directory / named)


# Where a value comes from


def test_command_line_over_environment_over_default() -> None:
    resolved = resolve.resolve(
        ["GBS=16", "TARGET=", "MBS=4", "MBS=2"], {"GBS": "64", "TARGET": "4.5", "SIZE": "tiny", "TAG": ""}
    )
    assert (resolved.settings.gbs, resolved.origins["gbs"]) == (16, "command line")
    assert (resolved.settings.size, resolved.origins["size"]) == ("tiny", "environment")
    assert (resolved.settings.mbs, resolved.origins["mbs"]) == (2, "command line"), "the last one counts"
    assert (resolved.settings.target, resolved.origins["target"]) == (Settings().target, "default"), "empty: default"
    assert (resolved.settings.tag, resolved.origins["tag"]) == ("", "default")


def test_values_of_the_configuration_file_are_distinguished_from_those_set_by_hand(tmp_path: Path) -> None:
    """A file that was edited and not sourced again is detected, too."""
    file = tmp_path / "config_mine.sh"
    file.write_text('export GBS=16 MBS=2\nexport JOB_DIR="$SCRATCH/runs"\n[[ -d /nowhere ]] && export TAG=x\n')
    exported = {"CONFIG_FILENAME": str(file), "GBS": "16", "MBS": "4", "JOB_DIR": "/s/runs", "SCRATCH": "/s"}
    origins = resolve.resolve([], {**exported, "PATH": environment()["PATH"]}).origins
    assert (origins["gbs"], origins["mbs"], origins["job_dir"]) == ("config_mine.sh", "environment", "config_mine.sh")


@pytest.mark.parametrize(("written", "value"), [("0", False), ("1", True)])
def test_booleans_are_0_and_1(written: str, value: bool) -> None:
    assert settings_of(f"SAVE_CKPT={written}").save_ckpt is value
    assert shown(value) == written


# What is refused


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("GBS=x", "GBS=x (command line): not a whole number, such as 32"),
        (f"GBS={2**63}", f"GBS={2**63} (command line): not below 9,223,372,036,854,775,808"),
        ("GBS=32.0", "GBS=32.0 (command line): not a whole number, such as 32"),
        ("WARMUP_STEPS=None", "WARMUP_STEPS=None (command line): not a whole number, such as 512"),
        ("MIN_LR=low", "MIN_LR=low (command line): not a number, such as 8e-05"),
        ("TARGET=3,3", "TARGET=3,3 (command line): not a number, such as 3.3"),
        ("TARGET=nan", "TARGET=nan: must be a number above 0, such as 3.3"),
        ("MAX_LR=inf", "MAX_LR=inf: must be a number above 0, such as 0.0008"),
        ("MBS=-1", "MBS=-1: must be a number above 0, such as 1"),
        ("GBS=0", "GBS=0: must be a number above 0, such as 32"),
        ("START_EVAL_AT=-1", "START_EVAL_AT=-1: must be a number 0 or more, such as 0"),
        ("STOP_AT_STEP=0", "STOP_AT_STEP=0: must be a number above 0, such as 512"),
        ("NEXP=100000", "NEXP=100000: must be at most 1000, such as 1"),
        ("PRECISION=fp16", "PRECISION=fp16 (command line): not one of bf16, fp8, nvfp4, fp32"),
        ("SAVE_CKPT=2", "SAVE_CKPT=2 (command line): not 0 or 1"),
        ("TRAIN_PARTS=6 8", "TRAIN_PARTS=6 8: not different part numbers from 0 to 7, such as 6 7"),
        ("TRAIN_PARTS=6 6", "TRAIN_PARTS=6 6: not different part numbers from 0 to 7, such as 6 7"),
        ("PROFILE_RANKS=07", "PROFILE_RANKS=07: not ranks separated by spaces, such as 0 8"),
        ("PROFILE_RANKS=first", "PROFILE_RANKS=first: not ranks separated by spaces, such as 0 8"),
        ("SEEDS=1 -2", "SEEDS=1 -2: not whole numbers from 0 to 2147483647, such as 1234"),
        ("SEEDS=2147483648", "SEEDS=2147483648: not whole numbers from 0 to 2147483647, such as 1234"),
        ("TAG=a/b", "TAG=a/b: must hold no /, such as a-b"),
        ("TAG=a\nb", "TAG='a\\nb' (command line): holds a character that cannot be printed; leave it out"),
        ("JOB_DIR=/${x}", "JOB_DIR=/${x} (command line): ${ and ??? mean something to OmegaConf; use other characters"),
        ("TAG=???", "TAG=??? (command line): ${ and ??? mean something to OmegaConf; use other characters"),
        ("BGS=16", "BGS=16: no such setting; did you mean GBS?"),
        ("gbs=16", "gbs=16: no such setting; did you mean GBS?"),
        ("TENSOR_PARALLEL=2", "TENSOR_PARALLEL=2: no such setting; did you mean TENSOR_PARALLEL_SIZE?"),
        ("XYZ=1", "XYZ=1: no such setting; the settings are those of config.sh"),
        ("GBS", "GBS: not a setting; write NAME=value, such as GBS=32"),
        ("--dry-run", "--dry-run: no such option; --dryrun shows the plan and runs nothing"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_each(argument: str, line: str) -> None:
    assert lines_of(argument) == [line]
    name, _, value = argument.partition("=")
    if value and (example := re.search(r"such as (.+)", line)):
        assert settings_of(f"{name}={example[1]}"), "the example does not work"


def test_all_mistakes_are_shown_at_once() -> None:
    arguments = ["BGS=1", "GBS=x", "MBS=0", "DEVICE=tpu", "PRECISION=int4", "SEEDS=a", "nonsense"]
    found = lines_of(*arguments, TARGET="nan", MAX_STEPS="many")
    assert sorted(line.partition("=")[0].partition(":")[0] for line in found) == sorted(
        [argument.partition("=")[0] for argument in arguments] + ["TARGET", "MAX_STEPS"]
    )
    assert "MAX_STEPS=many (environment): not a whole number, such as 1200000" in found


@pytest.mark.slow
@hypothesis_settings(deadline=None)
@given(
    st.sampled_from([name for name in names() if name != "CONFIG_FILENAME"]),
    st.text(st.characters(exclude_characters="\0"), max_size=20)
    | st.sampled_from(
        ["1e999", "-0", "9" * 5000, "null", "true", "[]", "{a: 1}", "${oc.env:HOME}", "\udcff", "0x1", "1_0"]
    ),
)
def test_any_value_is_taken_or_refused_in_one_line(name: str, value: str) -> None:
    resolved = resolve.read([f"{name}={value}"], {})
    assert len(resolved.problems) <= 1 and not any("\n" in line for line in resolved.problems)
    if not resolved.problems:
        assert resolve.from_dict(to_dict(resolved.settings)) == resolved.settings
        assert (
            resolve.resolve([f"{name}={shown(getattr(resolved.settings, name.lower()))}"], {}).settings
            == resolved.settings
        )


def test_a_name_in_a_configuration_file_that_is_no_setting_is_found(tmp_path: Path) -> None:
    """In the file or in one that it sources; what libraries read may be there, functions of the shell too."""
    inner, outer = tmp_path / "it's.sh", tmp_path / "config_$x.sh"
    inner.write_text("export SEQ_LENTH=512\n")
    outer.write_text(
        f'source "{inner}"\nexport GBS=16 EVAL_SAMPELS=8\nexport NCCL_DEBUG=INFO OMP_NUM_THREADS=1\n'
        "export HSA_FORCE_FINE_GRAIN_PCIE=1 FI_PROVIDER=efa TOKENIZERS_PARALLELISM=false\n"
        "f() { :; }; export -f f\nexport PATH=/opt/bin:$PATH\nLOCAL_ONLY=1\n"
    )
    exported = {**environment(), "CONFIG_FILENAME": str(outer), "GBS": "16", "SEQ_LENTH": "512", "EVAL_SAMPELS": "8"}
    assert resolve.read([], exported).problems == [
        f"EVAL_SAMPELS in {outer}: no such setting; did you mean EVAL_SAMPLES?",
        f"SEQ_LENTH in {outer}: no such setting; did you mean SEQ_LENGTH?",
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "{file}: no such file; source config.sh again"),
        ("exit 3\n", "{file}: bash cannot source it: exit code 3"),
        (': "${SCRATCH_DIR:?set it}"\n', "{file}: bash cannot source it: .*SCRATCH_DIR: set it"),
    ],
)
def test_a_configuration_file_that_cannot_be_sourced(content: str | None, line: str, tmp_path: Path) -> None:
    file = tmp_path / "config.sh"
    if content is not None:
        file.write_text(content)
    (found,) = resolve.read([], {**environment(), "CONFIG_FILENAME": str(file)}).problems
    assert re.fullmatch("CONFIG_FILENAME=" + line.format(file=re.escape(str(file))), found)


# What is stored

OTHER_VALUES: dict[str, Any] = {
    "device": Device.cpu,
    "container": Container.apptainer,
    "precision": Precision.fp8,
    "fp8_recipe": Fp8Recipe.mxfp8,
    "fp8_amax_compute_algo": AmaxAlgorithm.max,
    "fp8_param_gather": False,
    "grad_reduce_dtype": ReduceType.bf16,
    "recompute_granularity": RecomputeGranularity.selective,
    "recompute_method": RecomputeMethod.block,
    "overlap_grad_reduce": False,
    "overlap_param_gather": True,
    "tp_comm_overlap": False,
    "cuda_graphs": CudaGraphs.layer,
    "submission_division": Division.open,
    "submission_status": Status.research,
    "profile": Profiler.nsys,
    "profile_ranks": "0 3",
    "seeds": "0012",
    "train_parts": "7",
    "tag": "null",
    "time": "1:30:00",
    "image": "1e3",
    "min_lr": 1e-7,
}


def other_value(name: str) -> Any:
    """Return a value other than the field's default."""
    default = FIELDS[name].default
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, str):
        return "on: $HOME 'a' \"b\" #c\\"
    return 7 if default is None else default + 1


@pytest.mark.parametrize("name", FIELDS)
def test_stored_settings_come_back_equal(name: str, tmp_path: Path) -> None:
    settings = replace(Settings(), **{name: other_value(name)})
    assert settings != Settings()
    assert resolve.from_dict(to_dict(settings)) == settings
    record.store_settings(tmp_path, settings)
    assert record.load_settings(tmp_path) == settings
    plain = to_dict(settings)
    assert list(plain) == list(FIELDS) and not any(isinstance(value, Enum) for value in plain.values())


def test_stored_settings_of_another_version_are_refused() -> None:
    with pytest.raises(UserError, match=r"^GSB=3 \(stored\): no such setting; did you mean GBS\?$"):
        resolve.from_dict({"gsb": 3})


def test_plans_and_mistakes_import_nothing_heavy(tiny_data: dict[str, str]) -> None:
    data = [f"{name}={value}" for name, value in tiny_data.items()]
    modules, code, said = imported_by("run", "--dryrun", *data, "SEQ_LENGTH=32", "GBS=4", "EVAL_SAMPLES=4", "SIZE=tiny")
    assert (code, said) == (0, "")
    assert is_light(modules)
    modules, code, said = imported_by("run", *data, "BGS=1", "TENSOR_PARALLEL_SIZE=3")
    assert code == 2 and "Traceback" not in said and said.startswith("BGS=1: no such setting; did you mean GBS?\n")
    assert is_light(modules)


@pytest.mark.parametrize(
    ("options", "code"), [((), 0), (("--dryrun",), 0), (("NPAR=2", "NEXP=2"), 0), (("HOST=login", "TIME=60"), 2)]
)
def test_submissions_import_nothing_heavy(
    options: tuple[str, ...], code: int, tiny_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the job's id, in a container, or up to what ssh says."""
    for name, script in (("sbatch", "echo 1"), ("ssh", "exit 255")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    slurm = {"PARTITION": "debug", "IMAGE": "registry#image", "CODE_PATH": "/code", "JOB_DIR": tmp_path / "runs"}
    saves = {"SAVE_CKPT": 1, "CONTINUAL_CKPT": tmp_path / "checkpoints", "SEEDS": 1}
    small = {"SIZE": "tiny", "SEQ_LENGTH": 32, "GBS": 4, "EVAL_SAMPLES": 4}
    modules, found, said = imported_by("run", *options, *arguments({**tiny_data, **slurm, **saves, **small}))
    assert (found, bool(said)) == (code, bool(code)), said
    assert {"llama31.launch.slurm.submit", "jinja2"} <= modules
    assert is_light(modules)
