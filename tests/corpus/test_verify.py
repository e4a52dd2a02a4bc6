"""Valid files are Megatron's own or made by `tokenize`; each kind of damage gives its line."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import REPOSITORY
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder, _IndexWriter
from verified_files import DOCUMENTS, Output, built, problems, put

from llama31 import rules
from llama31.corpus import token_scan, verify_table
from llama31.corpus.tokenize import tokenize
from llama31.data.token_file import HEADER, TokenType, bin_path, idx_path, summary
from llama31.data.token_manifest import manifest_path

TEXTS = ["First text.", "Second:\r\n\x1b[31m two lines", "word " * 2000]
PART_6 = rules.token_file_name(rules.train_part_name(6))
VALIDATION = rules.token_file_name(rules.validation_name(rules.VALIDATION_DOCUMENTS))


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many ids as Llama 3.1's."""
    directory = tmp_path_factory.mktemp("llamas")
    vocabulary = {f"w{number}": number for number in range(rules.VOCABULARY_SIZE)}
    content = {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}, "added_tokens": []}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def made(tmp_path: Path, tokenizer: Path) -> Path:
    """A token file of TEXTS, with its manifest."""
    source = tmp_path / "in.json"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    tokenize([source], tmp_path / "made" / "made", tokenizer, quiet=True)
    return tmp_path / "made" / "made"


def command(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if name != "TOKENIZER_PATH"}
    line = [sys.executable, "-m", "llama31", "verify", *map(str, arguments)]
    return subprocess.run(line, cwd=REPOSITORY, env={**ours, **env}, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command(made: Path, tokenizer: Path) -> None:
    built(made.with_name("other"), dtype="uint16")
    size = summary(made).tokens
    largest = json.loads(manifest_path(made).read_text())["largest_id"]
    good = command(made.parent)
    assert (good.returncode, good.stderr) == (0, "")
    *lines, last = good.stdout.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "token file documents tokens type .bin bytes largest id verdict",
        f"made 3 {size:,} uint16 {2 * size:,} {largest} good",
        "checked: index; ids below 512 (manifest); manifest",
        "other 5 309 uint16 618 499 good",
        "checked: index",
        "not checked: range of the ids (no manifest, no tokenizer); hashes (no manifest)",
    ]
    assert len({line.index(" good") for line in (lines[1], lines[3])} | {lines[0].index(" verdict")}) == 1, (
        "not aligned"
    )
    assert last.startswith(f"token files: 2, documents: 8, tokens: {size + 309:,}; bad: 0, stale files: 0; read: ")

    bin_path(made).write_bytes(bin_path(made).read_bytes()[:-2])
    bad = command(made.parent, TOKENIZER_PATH=str(tokenizer))
    assert (bad.returncode, bad.stderr) == (1, "")
    _, first, problem, second, checked, _, last = bad.stdout.splitlines()
    assert first.split() == ["made", *"-----", "BAD"]
    assert problem.startswith(
        f"    PROBLEM: {bin_path(made)}: truncated: {2 * size - 2:,} bytes instead of the {2 * size:,}"
    )
    assert second.split()[-1] == "good", "the others are judged all the same"
    assert checked == f"    checked: index; ids below 512 ({tokenizer})"
    assert "bad: 1, stale files: 0;" in last


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{root}/none"], "{root}/none: no such directory, and no such none.bin or none.idx"),
        (["{root}/empty"], "{root}/empty: no token files (.bin, .idx)"),
        (["{root}/data/data", "--tokenizer={root}/none"], "{root}/none: no such tokenizer directory"),
        (["{root}/data/data", "--head=1"], "--head=1: needs the tokenizer"),
        (
            ["{root}/data/data.bin"],
            "{root}/data/data.bin: not the prefix of a token file; omit the extension",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, data: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "empty").mkdir()
    done = command(*(argument.format(root=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line.format(root=tmp_path))
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_tokenizer_of_the_environment(made: Path, tokenizer: Path, llamas: Path, tmp_path: Path) -> None:
    """It is used if it exists: data may be downloaded before the tokenizer."""
    for path, says in ((tokenizer, f"ids below 512 ({tokenizer})"), (tmp_path / "none", "ids below 512 (manifest)")):
        done = command(made, TOKENIZER_PATH=str(path))
        assert done.returncode == 0, done.stdout
        assert says in done.stdout
    assert command(made, f"--tokenizer={tokenizer}", TOKENIZER_PATH=str(llamas)).returncode == 0
    assert "another tokenizer" in command(made, TOKENIZER_PATH=str(llamas)).stdout


def test_type_too_small(tmp_path: Path, llamas: Path, capsys: Output) -> None:
    prefix = built(tmp_path / "data", [[1, 65_535]], "uint16")
    assert problems(capsys, prefix) == []
    assert problems(capsys, prefix, llamas) == [f"{idx_path(prefix)}: uint16 cannot hold the ids of {llamas}"]


def in_sentences(prefix: Path) -> Path:
    """Megatron's token file of DOCUMENTS with a stored sequence for each 3 tokens, as --split-sentences writes."""
    builder = IndexedDatasetBuilder(str(bin_path(prefix)), dtype=np.int32)
    for ids in DOCUMENTS:
        for start in range(0, len(ids), 3):
            builder.add_item(torch.IntTensor(ids[start : start + 3]))
        builder.end_document()
    builder.finalize(str(idx_path(prefix)))
    return prefix


@pytest.mark.parametrize("block", [1, 2, 1 << 20])
def test_several_sequences_in_a_document(
    tmp_path: Path, tokenizer: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(token_scan, "BLOCK", block)
    prefix = in_sentences(tmp_path / "data")
    assert problems(capsys, prefix, tokenizer) == []
    assert (summary(prefix).documents, summary(prefix).tokens) == (5, 309)
    ends = HEADER.size + 12 * summary(prefix).stored_sequences
    put(idx_path, ends + 16, "<q", 1)(prefix)
    (line,) = problems(capsys, prefix)
    assert line.startswith(f"{idx_path(prefix)}: entry 2 of the document index is 1; it must rise from 0 to 105, ")
    assert verify_table.verify(prefix, tokenizer, head=2) == 1


def test_head_shows_whole_documents(tmp_path: Path, tokenizer: Path, capsys: Output) -> None:
    """One stored sequence or several make no difference."""
    built(tmp_path / "one" / "data")
    in_sentences(tmp_path / "several")
    shown = []
    for prefix in (tmp_path / "one" / "data", tmp_path / "several"):
        verify_table.verify(prefix, tokenizer, head=9)
        shown.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("--- ")])
    assert [line.partition(", ")[2] for line in shown[0]] == [line.partition(", ")[2] for line in shown[1]]
    assert len(shown[0]) == len(DOCUMENTS)


MANIFEST = {
    "documents": 4,
    "tokens": 1,
    "dtype": "int32",
    "largest_id": 5,
    "bin_sha256": "0" * 64,
    "idx_sha256": "0" * 64,
}


@pytest.mark.parametrize("name", MANIFEST)
def test_manifest_of_other_data(made: Path, capsys: Output, name: str) -> None:
    content = json.loads(manifest_path(made).read_text())
    manifest_path(made).write_text(json.dumps({**content, name: MANIFEST[name]}))
    (line,) = problems(capsys, made)
    assert line == f"{manifest_path(made)}: {name}={MANIFEST[name]}, the data has {content[name]}"


def test_manifest(made: Path, tokenizer: Path, llamas: Path, capsys: Output) -> None:
    assert problems(capsys, made) == problems(capsys, made, tokenizer) == []
    right = bin_path(made).read_bytes()
    put(bin_path, 0, "<H", struct.unpack_from("<H", right, 2)[0])(made)  # another id, and no new one
    (line,) = problems(capsys, made)
    assert line.startswith(f"{manifest_path(made)}: bin_sha256=")
    bin_path(made).write_bytes(right)
    found = problems(capsys, made, llamas)
    assert f"{manifest_path(made)}: the data was made with another tokenizer than {llamas}" in found
    manifest_path(made).write_text("{}")
    (line,) = problems(capsys, made)
    assert line.startswith(f"{manifest_path(made)}: damaged (")


def test_skipped_lines_are_shown(tmp_path: Path, tokenizer: Path, capsys: Output) -> None:
    source = tmp_path / "in.json"
    source.write_text('{"text":"good"}\n' + "bad\n" * 5)
    tokenize([source], tmp_path / "made", tokenizer, bad_line_limit=5, quiet=True)
    assert verify_table.verify(tmp_path / "made", None, head=0) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "note: " in line]
    assert line.startswith("    note: bad lines skipped: 5: in.json:2 (not JSON: Expecting value: ")
    assert line.endswith(" and 2 more")


def test_known_counts_are_the_published_sizes() -> None:
    part = rules.KNOWN_COUNTS[PART_6]
    assert part.tokens * TokenType.int32.itemsize == 83_976_774_280
    assert HEADER.size + 20 * part.documents + 8 == 912_172_262
    assert part.documents == 45_608_611


@pytest.mark.slow
def test_the_benchmarks_validation_set(tmp_path: Path, llamas: Path, tokenizer: Path, capsys: Output) -> None:
    """Of its true size; its ids are all 0, in a sparse file."""
    prefix = tmp_path / VALIDATION
    documents, tokens = rules.VALIDATION_DOCUMENTS, rules.VALIDATION_TOKENS
    lengths = [1] * (documents - 1) + [tokens - documents + 1]

    def write(lengths: list[int]) -> None:
        with _IndexWriter(str(idx_path(prefix)), np.int32) as index:
            index.write(lengths, None, list(range(len(lengths) + 1)))
        with open(bin_path(prefix), "wb") as file:
            file.truncate(4 * sum(lengths))

    write(lengths)
    for path in (None, llamas, tokenizer):
        assert verify_table.verify(prefix, path, head=0) == 0
        assert "MLCommons' 91,205 documents" + " and 47,186,855 tokens" * (path != tokenizer) in capsys.readouterr().out
    write([*lengths[:-1], lengths[-1] + 1])
    start = f"{idx_path(prefix)}: 47,186,856 tokens, MLCommons' has 47,186,855"
    assert problems(capsys, prefix, llamas) == [start]
    assert problems(capsys, prefix) == [f"{start}; if another tokenizer made it, pass that as --tokenizer"]
    assert problems(capsys, prefix, tokenizer) == []
    write(lengths[1:])
    assert problems(capsys, prefix, tokenizer) == [f"{idx_path(prefix)}: 91,204 documents, MLCommons' has 91,205"]


def test_part_6(tmp_path: Path, llamas: Path, tokenizer: Path, capsys: Output) -> None:
    """Part 6 of another corpus is valid if it was made with another tokenizer."""
    prefix = built(tmp_path / PART_6)
    assert problems(capsys, prefix, llamas) == [
        f"{idx_path(prefix)}: 5 documents, MLCommons' has 45,608,611",
        f"{idx_path(prefix)}: 309 tokens, MLCommons' has 20,994,193,570",
    ]
    assert len(problems(capsys, prefix)) == 2
    built(prefix, dtype="uint16")
    assert problems(capsys, prefix) == []
    assert verify_table.verify(prefix, tokenizer, head=0) == 0
    assert "not checked: hashes (no manifest); MLCommons' counts (of" in capsys.readouterr().out


def test_head(made: Path, tokenizer: Path) -> None:
    shutil.copy(bin_path(made), bin_path(made.with_name("bare")))
    done = command(made.parent, "--head=5", TOKENIZER_PATH=str(tokenizer))
    assert done.returncode == 1, "bare.bin has no index"
    first, text, second, *lines = done.stdout.splitlines()
    assert first.startswith("--- made, document 0: ")
    assert text == TEXTS[0]
    assert second.startswith("--- made, document 1: ")
    assert lines[:2] == ["Second:\\r", "\\x1b[31m two lines"]
    assert lines[2].startswith("--- made, document 2: ")
    assert lines[3].startswith("word word word")
    assert lines[4].startswith("[and ")
    assert lines[4].endswith(" more tokens]")
    assert lines[5].startswith("token file ")
