"""Data, tokenizers and directories that a run cannot use: one line for each problem."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from saved_tokenizers import change_ids, save_again
from tiny import VOCABULARY, make_tokenizer, write_tokens
from validated_settings import lines_of, suggested

from llama31 import rules
from llama31.data import inputs, token_manifest, tokenizer
from llama31.data.token_file import bin_path, idx_path, summary


@pytest.fixture
def own_data(usual: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The same with its own data, to be damaged."""
    copy = tmp_path / "copied data"
    shutil.copytree(usual["PREPROCESSED_PATH"], copy / "preprocessed")
    shutil.copytree(usual["TOKENIZER_PATH"], copy / "tokenizer")
    return {
        **usual,
        "PREPROCESSED_PATH": str(copy / "preprocessed"),
        "TOKENIZER_PATH": str(copy / "tokenizer"),
    }


# The data

TRAIN_6 = rules.token_file_name(rules.train_part_name(6))
TRAIN_7 = rules.token_file_name(rules.train_part_name(7))


@pytest.mark.parametrize("name", ["PREPROCESSED_PATH", "TOKENIZER_PATH"])
@pytest.mark.parametrize(
    ("value", "words"), [("", "is empty"), ("/no/such", "no such directory"), ("x" * 300, "no such directory")]
)
def test_directories_that_are_not_there(name: str, value: str, words: str, usual: dict[str, str]) -> None:
    (line,) = lines_of(usual, f"{name}={value}")
    assert line.startswith(name) and words in line and "set it to the directory of" in line


def test_training_part_that_is_not_there(own_data: dict[str, str]) -> None:
    directory = Path(own_data["PREPROCESSED_PATH"])
    idx_path(directory / TRAIN_7).unlink()
    (line,) = lines_of(own_data)
    assert line == f"TRAIN_PARTS=6 7: no {directory / TRAIN_7}.idx; TRAIN_PARTS=6 works"
    assert lines_of(own_data, *suggested(line)) == []
    (line,) = lines_of(own_data, "TRAIN_PARTS=0")
    assert suggested(line) == ["TRAIN_PARTS=6"]
    idx_path(directory / TRAIN_6).unlink()
    (line,) = lines_of(own_data)
    assert line == f"TRAIN_PARTS=6 7: no {directory / TRAIN_6}.idx; python3 -m llama31 tokenize makes it"


def test_validation_set_that_is_not_there(usual: dict[str, str]) -> None:
    (line,) = lines_of(usual, "N_VALIDATION_SAMPLES=")
    assert line.startswith("N_VALIDATION_SAMPLES=91205: no ") and suggested(line) == ["N_VALIDATION_SAMPLES=40"]
    assert lines_of(usual, *suggested(line)) == []


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize("how", ["missing", "empty", "truncated"])
@pytest.mark.parametrize("file", [".bin", ".idx"])
@pytest.mark.parametrize("name", [TRAIN_7, "c4-validation-40-samples.en_text_document"])
def test_damaged_token_files(name: str, file: str, how: str, own_data: dict[str, str]) -> None:
    path = Path(own_data["PREPROCESSED_PATH"]) / f"{name}{file}"
    spoil(path, how)
    (line,) = lines_of(own_data)
    words = {"missing": "no ", "empty": "is empty", "truncated": "truncated: "}
    assert str(path) in line and words[how] in line


@pytest.mark.parametrize("how", ["missing", "empty", "truncated"])
def test_damaged_tokenizer(how: str, own_data: dict[str, str]) -> None:
    path = Path(own_data["TOKENIZER_PATH"]) / "tokenizer.json"
    spoil(path, how)
    (line,) = lines_of(own_data)
    assert str(path.parent) in line and "tokenizer.json" in line


def test_tokenizer_that_nemo_cannot_load(own_data: dict[str, str]) -> None:
    """It would fail a quarter of a minute later, in every rank."""
    path = Path(own_data["TOKENIZER_PATH"]) / "tokenizer_config.json"
    path.write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert lines_of(own_data) == [
        f"TOKENIZER_PATH={path.parent}: tokenizer_config.json names no eos_token; add the end-of-text token"
    ]
    path.unlink()
    assert lines_of(own_data) == [
        f"TOKENIZER_PATH={path.parent}: holds no tokenizer_config.json; copy it from the same tokenizer"
    ]


def add_manifest(data: dict[str, str], name: str, **changes: Any) -> Path:
    """Write the manifest that tokenising would have left beside a token file."""
    file = summary(Path(data["PREPROCESSED_PATH"]) / name)
    true = token_manifest.TokenManifest(
        inputs=["c4.json.gz"],
        input_bytes=[1],
        input_sha256=[],
        json_key="text",
        tokenizer_sha256=tokenizer.fingerprint(data["TOKENIZER_PATH"]),
        vocabulary_size=VOCABULARY,
        append_eod=False,
        eod_id=None,
        dtype="uint16",
        documents=file.documents,
        tokens=file.tokens,
        largest_id=VOCABULARY - 1,
        bin_sha256="",
        idx_sha256="",
        versions={},
    )
    token_manifest.write(file.prefix, replace(true, **changes))
    return token_manifest.manifest_path(file.prefix)


def test_tokenizer_other_than_the_one_that_made_the_data(own_data: dict[str, str]) -> None:
    add_manifest(own_data, TRAIN_6)
    assert lines_of(own_data) == []
    other = Path(own_data["TOKENIZER_PATH"]) / "tokenizer.json"
    save_again(other.parent)
    assert lines_of(own_data) == [], "the same ids"
    change_ids(other.parent)
    (line,) = lines_of(own_data)
    path = bin_path(Path(own_data["PREPROCESSED_PATH"]) / TRAIN_6)
    assert line.startswith(f"TOKENIZER_PATH={other.parent}: {path} was made with another tokenizer (SHA-256 of ")


@pytest.mark.slow
def test_vocabulary_smaller_than_the_ids(own_data: dict[str, str]) -> None:
    """Detected from the ids themselves; with a manifest, also if the id is in the middle of a large file."""
    shutil.rmtree(own_data["TOKENIZER_PATH"])
    make_tokenizer(Path(own_data["TOKENIZER_PATH"]), vocabulary=300)
    (line,) = lines_of(own_data)
    assert re.search(r": has 300 ids, but .*_6_text_document\.bin holds id \d+; use the tokenizer that made ", line)
    for part in (TRAIN_6, TRAIN_7, "c4-validation-40-samples.en_text_document"):
        write_tokens(Path(own_data["PREPROCESSED_PATH"]) / part, [[1, 2, 3]] * 1000)
        add_manifest(own_data, part, largest_id=299)
    assert lines_of(own_data) == []
    add_manifest(own_data, TRAIN_7, largest_id=300)
    (line,) = lines_of(own_data)
    assert "_7_text_document.bin holds id 300" in line


def test_data_with_end_of_text_tokens(own_data: dict[str, str]) -> None:
    add_manifest(own_data, TRAIN_6, append_eod=True)
    (line,) = lines_of(own_data)
    assert "_6_text_document.bin: was made with --append-eod; the benchmark's data has no end-of-text tokens" in line


def test_manifest_of_other_data(own_data: dict[str, str]) -> None:
    path = add_manifest(own_data, TRAIN_7, tokens=1)
    (line,) = lines_of(own_data)
    assert line.startswith(f"{path}: is of 1 tokens ")
    for content in ("{}", path.read_text().replace('"tokens": 1', '"tokens": "1"')):
        path.write_text(content)
        (line,) = lines_of(own_data)
        assert line.startswith(f"{path}: damaged (")


def test_negative_ids(own_data: dict[str, str]) -> None:
    write_tokens(Path(own_data["PREPROCESSED_PATH"]) / TRAIN_6, [[5, -3, 7]] * 3000, vocabulary=10**6)
    (line,) = lines_of(own_data)
    assert "holds id -3" in line


@pytest.mark.parametrize("name", ["JOB_DIR", "TMP_NPY_INDEX"])
@pytest.mark.parametrize("value", ["/dev/null", "/dev/null/deeper", "/" + "x" * 300])
def test_directories_that_cannot_be_written(name: str, value: str, usual: dict[str, str]) -> None:
    (line,) = lines_of(usual, f"{name}={value}", f"TMP_NPY_INDEX={usual['JOB_DIR']}" if name == "JOB_DIR" else "GBS=8")
    assert line == f"{name}={value}: not writable; choose another directory"


def test_directory_without_permission(usual: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs.os, "access", lambda *_: False)  # root may write anywhere
    (line, _) = lines_of(usual)
    assert line == f"JOB_DIR={usual['JOB_DIR']}: not writable; choose another directory"


def test_copies_beside_their_sources(usual: dict[str, str], tmp_path: Path) -> None:
    (line,) = lines_of(usual, f"COPY_DATA_TO={usual['PREPROCESSED_PATH']}/../preprocessed")
    assert "is PREPROCESSED_PATH itself; name a directory on the nodes' own disks; COPY_DATA_TO= works" in line
    (line,) = lines_of(usual, "COPY_DATA_TO=/dev/null/deeper")
    assert line == "COPY_DATA_TO=/dev/null/deeper: not writable; choose another directory"
    assert lines_of(usual, f"COPY_DATA_TO={tmp_path}/copies") == []


def test_directories_of_nodes_are_not_checked_where_a_job_is_submitted(usual: dict[str, str]) -> None:
    assert lines_of(usual, "PARTITION=debug", "TMP_NPY_INDEX=/dev/null/index", "COPY_DATA_TO=/dev/null/copies") == []
