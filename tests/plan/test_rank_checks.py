"""A rank compares its own machine with the one that validated the run."""

import importlib.metadata
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import REPOSITORY, SUPPORT, TIMEOUT, arguments, environment, finished, prepared_run

from llama31.common.errors import UserError
from llama31.config import devices, paths
from llama31.data import token_file, token_manifest, tokenizer
from llama31.estimates import host_memory
from llama31.plan import rank_checks, validate
from llama31.run_dir import record
from llama31.run_dir.events import BAD_INPUT
from llama31.settings import Settings

PART = "c4-train.en_6_text_document"


@pytest.fixture
def settings(usual: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """Settings of a run with its own data and tokenizer."""
    data = shutil.copytree(usual["PREPROCESSED_PATH"], tmp_path / "own data")
    own = shutil.copytree(usual["TOKENIZER_PATH"], tmp_path / "own tokenizer")
    return {**usual, "PREPROCESSED_PATH": str(data), "TOKENIZER_PATH": str(own)}


@pytest.fixture
def run_dir(settings: dict[str, str]) -> Path:
    directory, _, _ = prepared_run(settings)
    return directory


def refusal(run_dir: Path) -> list[str]:
    """The lines of a rank that refuses, without the host that each begins with."""
    with pytest.raises(UserError) as refused:
        rank_checks.check(run_dir, record.load_settings(run_dir))
    host = f"{socket.gethostname()}: "
    assert all(line.startswith(host) and "\n" not in line for line in refused.value.lines)
    return [line.removeprefix(host) for line in refused.value.lines]


def test_an_equal_machine_gets_the_data_that_was_validated(run_dir: Path) -> None:
    settings = record.load_settings(run_dir)
    assert rank_checks.check(run_dir, settings) == validate.check(settings)


def test_too_little_host_memory_for_saves_in_the_background(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving = {**settings, "SAVE_CKPT": "1", "CONTINUAL_CKPT": str(tmp_path / "c"), "SAVE_ASYNC": "1"}
    run_dir, _, _ = prepared_run(saving)
    rank_checks.check(run_dir, record.load_settings(run_dir))
    monkeypatch.setattr(host_memory, "available", lambda: 1_000_000)
    (line,) = refusal(run_dir)
    copy = "SAVE_ASYNC=1: the copy of the state takes "
    assert line.startswith(copy) and line.endswith(" of host memory, 1 MB are available; SAVE_ASYNC=0 works")


def _other_data(settings: Settings) -> None:
    """Other data under the same name, the validation set's."""
    train, validation = paths.train_prefixes(settings)[0], paths.validation_prefix(settings)
    _copy(validation, train)


def _copy(source: Path, target: Path) -> None:
    for path in (token_file.bin_path, token_file.idx_path):
        shutil.copyfile(path(source), path(target))


def _truncated(settings: Settings) -> None:
    file = token_file.bin_path(paths.train_prefixes(settings)[0])
    file.write_bytes(file.read_bytes()[:-2])


def _gone(settings: Settings) -> None:
    shutil.rmtree(settings.preprocessed_path)


def _other_tokenizer(settings: Settings) -> None:
    file = Path(settings.tokenizer_path, "tokenizer.json")
    content = json.loads(file.read_bytes())
    content["added_tokens"] = [{**token, "content": f"{token['content']}x"} for token in content["added_tokens"]]
    content["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_other_data, f"{PART}.bin: "),
        (_truncated, f"{PART}.bin: truncated: "),
        (_gone, f"{PART}.idx: no such file"),
        (_other_tokenizer, "own tokenizer: not the tokenizer that was validated"),
    ],
)
def test_other_data_is_refused(change: Callable[[Settings], None], line: str, run_dir: Path) -> None:
    change(record.load_settings(run_dir))
    (said,) = refusal(run_dir)
    assert line in said


def test_data_made_from_something_else_is_refused(settings: dict[str, str]) -> None:
    """Token files of the same counts, by their manifest."""
    directory = Path(settings["PREPROCESSED_PATH"])
    prefix = next(directory.glob("c4-validation*.idx")).with_suffix("")
    made = _manifest(prefix, settings["TOKENIZER_PATH"])
    token_manifest.write(prefix, made)
    run_dir, _, _ = prepared_run(settings)
    rank_checks.check(run_dir, record.load_settings(run_dir))
    token_manifest.write(prefix, replace(made, input_sha256=["0" * 64]))
    (said,) = refusal(run_dir)
    assert "not the file that was validated; PREPROCESSED_PATH must hold the same data on all machines" in said


def test_data_that_is_not_its_manifests_is_refused(settings: dict[str, str]) -> None:
    """The manifest is the one that was validated, the token file beside it is not."""
    train, validation = (
        next(Path(settings["PREPROCESSED_PATH"]).glob(f"{name}*.idx")).with_suffix("") for name in (PART, "c4-valid")
    )
    token_manifest.write(train, _manifest(train, settings["TOKENIZER_PATH"]))
    run_dir, _, _ = prepared_run(settings)
    _copy(validation, train)
    (said,) = refusal(run_dir)
    assert f"{PART}.bin: " in said and "not the file that was validated" in said


def _manifest(prefix: Path, tokenizer_path: str) -> token_manifest.TokenManifest:
    summary = token_file.summary(prefix)
    return token_manifest.TokenManifest(
        inputs=["documents.json"],
        input_bytes=[1],
        input_sha256=["1" * 64],
        json_key="text",
        tokenizer_sha256=tokenizer.fingerprint(tokenizer_path),
        vocabulary_size=tokenizer.vocabulary_size(tokenizer_path),
        append_eod=False,
        eod_id=None,
        dtype=summary.token_type.name,
        documents=summary.documents,
        tokens=summary.tokens,
        largest_id=1,
        bin_sha256="2" * 64,
        idx_sha256="3" * 64,
        versions={},
    )


def test_an_older_package_and_one_that_is_missing_are_refused(run_dir: Path) -> None:
    recorded = record.load_record(run_dir)
    torch, numpy = (importlib.metadata.version(name) for name in ("torch", "numpy"))
    described = {**recorded["versions"], "torch": "99.0", "transformer_engine": "2.0"}
    described.pop("numpy")
    record.store_record(run_dir, {**recorded, "versions": described})
    assert refusal(run_dir) == [
        f"{differs} where the run was validated; install the same version on all machines"
        for differs in (
            f"torch {torch}, but 99.0",
            "transformer_engine is not installed, but 2.0",
            f"numpy {numpy}, but not installed",
        )
    ]


def test_another_kind_of_device_is_refused(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEVICE=auto, and only one of the machines has a GPU."""
    monkeypatch.setattr(devices, "DEVICE_FILES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    run_dir, _, _ = prepared_run({**settings, "DEVICE": "auto"})
    (tmp_path / "nvidia0").touch()
    assert refusal(run_dir) == [
        "DEVICE=auto: cuda here, but cpu where the run was validated; use equal machines, or DEVICE=cpu"
    ]


LAUNCHER = f"""
import sys
from llama31.cli import launch
from llama31.launch import local
stock = local.command
def command(*of):
    *torchrun, _, run_dir = stock(*of)
    return [*torchrun, {str(SUPPORT / "ranks_on_two_machines.py")!r}, run_dir]
local.command = command
sys.exit(launch.run(sys.argv[1:]))
"""
OLDER = (
    "mkdir -p {0}/numpy-1.0.dist-info && printf '%s\\n' 'Name: numpy' 'Version: 1.0' >{0}/numpy-1.0.dist-info/METADATA"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("differs", "line"),
    [
        ("mount --bind {other} {data}", "not the file that was validated"),
        (f"{OLDER.format('{other}')} && export PYTHONPATH={{other}}:$PYTHONPATH", "numpy 1.0, but "),
    ],
    ids=["other data", "older package"],
)
def test_one_rank_on_another_machine_ends_the_run_with_one_line(
    differs: str, line: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, other = Path(settings["PREPROCESSED_PATH"]), tmp_path / "other"
    shutil.copytree(data, other)
    settings = {**settings, "GPUS_PER_NODE": 2, "SEEDS": 1, "STOP_AT_STEP": 2}
    _copy(next(data.glob("c4-validation*.idx")).with_suffix(""), other / PART)
    monkeypatch.setenv("DIFFERS", differs.format(other=f"'{other}'", data=f"'{data}'"))
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *arguments(settings)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    run = finished(done.stdout + done.stderr, done.returncode)
    assert run.exit_code == BAD_INPUT, run.printed + run.logs()
    said = [text for text in run.printed.splitlines() if line in text]
    assert len(said) == 1 and f"aborted: {socket.gethostname()}: " in said[0]
    assert "Traceback" not in run.printed
    assert run.outcome.reason in said[0]
