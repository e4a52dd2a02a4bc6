"""Good files are Megatron's own, or those of `tokenize`; each kind of damage gives its line."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder, _IndexWriter

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.progress import Progress
from llama31.corpus import token_scan, verify_table
from llama31.corpus.tokenize import tokenize
from llama31.data.token_file import HEADER, TokenType, bin_path, idx_path, summary
from llama31.data.token_manifest import manifest_path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [[5], [1, 2, 3], [0, 499, 7, 7], list(range(300)), [9]]
LENGTHS, POINTERS, ENDS = (HEADER.size + size * len(DOCUMENTS) for size in (0, 4, 12))  # parts of their index
TEXTS = ["First text.", "Second:\r\n\x1b[31m two lines", "word " * 2000]
PART_6 = rules.token_file_name(rules.train_part_name(6))
VALIDATION = rules.token_file_name(rules.validation_name(rules.VALIDATION_DOCUMENTS))

Output = pytest.CaptureFixture[str]
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 ids."""
    return tiny.make_tokenizer(tmp_path_factory.mktemp("verify") / "tokenizer")


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many ids as Llama 3.1's."""
    directory = tmp_path_factory.mktemp("llamas")
    vocabulary = {f"w{number}": number for number in range(rules.VOCABULARY_SIZE)}
    content = {"model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}, "added_tokens": []}
    (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A token file of DOCUMENTS in a directory of its own, without a manifest."""
    return built(tmp_path / "data" / "data")


@pytest.fixture
def made(tmp_path: Path, tokenizer: Path) -> Path:
    """A token file of TEXTS, with its manifest."""
    source = tmp_path / "in.json"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    tokenize([source], tmp_path / "made" / "made", tokenizer, quiet=True)
    return tmp_path / "made" / "made"


def built(prefix: Path, documents: Sequence[Sequence[int]] = DOCUMENTS, dtype: str = "int32") -> Path:
    """Megatron's token file of these documents."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = IndexedDatasetBuilder(str(bin_path(prefix)), dtype=getattr(np, dtype))
    for ids in documents:
        builder.add_item(torch.IntTensor(ids))
        builder.end_document()
    builder.finalize(str(idx_path(prefix)))
    return prefix


def doubts(output: Output, path: Path, tokenizer: Path | None = None) -> list[str]:
    """Lines on what is in doubt; the exit code and the last line must agree with them."""
    exit_code = verify_table.verify(path, tokenizer, head=0)
    *lines, last = output.readouterr().out.splitlines()
    found = [line.partition("DOUBT: ")[2] for line in lines if "DOUBT: " in line]
    assert exit_code == bool(found)
    assert ("in doubt: 0, left over: 0;" in last) == (not found)
    return found


def command(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if name != "TOKENIZER_PATH"}
    line = [sys.executable, "-m", "llama31", "verify", *map(str, arguments)]
    return subprocess.run(line, cwd=REPOSITORY, env={**ours, **env}, capture_output=True, text=True, check=False)


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
        "not checked: range of the ids (no manifest and no tokenizer to go by); hashes (no manifest to go by)",
    ]
    assert len({line.index(" good") for line in (lines[1], lines[3])} | {lines[0].index(" verdict")}) == 1, (
        "not aligned"
    )
    assert last.startswith(f"token files: 2, documents: 8, tokens: {size + 309:,}; in doubt: 0, left over: 0; read: ")

    bin_path(made).write_bytes(bin_path(made).read_bytes()[:-2])
    bad = command(made.parent, TOKENIZER_PATH=str(tokenizer))
    assert (bad.returncode, bad.stderr) == (1, "")
    _, first, doubt, second, checked, _, last = bad.stdout.splitlines()
    assert first.split() == ["made", *"-----", "DOUBTED"]
    assert doubt.startswith(
        f"    DOUBT: {bin_path(made)}: truncated: {2 * size - 2:,} bytes instead of the {2 * size:,}"
    )
    assert second.split()[-1] == "good", "the others are judged all the same"
    assert checked == f"    checked: index; ids below 512 ({tokenizer})"
    assert "in doubt: 1, left over: 0;" in last


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{root}/none"], "{root}/none: no such directory, and no such none.bin or none.idx"),
        (["{root}/empty"], "{root}/empty: holds no token files (.bin, .idx)"),
        (["{root}/data/data", "--tokenizer={root}/none"], "{root}/none: no such tokenizer directory"),
        (["{root}/data/data", "--head=1"], "--head=1: needs the tokenizer"),
        (
            ["{root}/data/data.bin"],
            "{root}/data/data.bin: names a file; the prefix of a token file is without that ending",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, data: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "empty").mkdir()
    done = command(*(argument.format(root=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line.format(root=tmp_path))
    assert done.stderr.count("\n") == 1


def test_tokenizer_of_the_environment(made: Path, tokenizer: Path, llamas: Path, tmp_path: Path) -> None:
    """It is used where it is there: data may be downloaded before the tokenizer is."""
    for path, says in ((tokenizer, f"ids below 512 ({tokenizer})"), (tmp_path / "none", "ids below 512 (manifest)")):
        done = command(made, TOKENIZER_PATH=str(path))
        assert done.returncode == 0, done.stdout
        assert says in done.stdout
    assert command(made, f"--tokenizer={tokenizer}", TOKENIZER_PATH=str(llamas)).returncode == 0
    assert "another tokenizer" in command(made, TOKENIZER_PATH=str(llamas)).stdout


def put(path_of: Callable[[Path], Path], offset: int, form: str, value: int) -> Damage:
    def change(prefix: Path) -> None:
        content = bytearray(path_of(prefix).read_bytes())
        struct.pack_into(form, content, offset, value)
        path_of(prefix).write_bytes(content)

    return change


def resize(path_of: Callable[[Path], Path], count: int) -> Damage:
    return lambda prefix: os.truncate(path_of(prefix), path_of(prefix).stat().st_size + count)


DAMAGES: dict[str, tuple[Damage, list[str]]] = {
    "magic": (put(idx_path, 0, "B", 0), ["data.idx: not a Megatron index"]),
    "counts": (put(idx_path, 18, "<Q", 6), ["data.idx: truncated: 142 bytes"]),
    "idx missing": (lambda prefix: idx_path(prefix).unlink(), ["data.idx: no such file"]),
    "bin missing": (lambda prefix: bin_path(prefix).unlink(), ["data.bin: no such file"]),
    "bin shorter": (resize(bin_path, -4), ["data.bin: truncated: 1,232 bytes instead of the 1,236"]),
    "bin longer": (resize(bin_path, 4), ["data.bin: too long: 1,240 bytes instead of the 1,236"]),
    "length zero": (
        put(idx_path, LENGTHS + 4, "<i", 0),
        ["data.idx: document 1 has 0 tokens", "data.idx: document 2 begins at byte 16, not where the one before it"],
    ),
    "length negative": (
        put(idx_path, LENGTHS + 12, "<i", -300),
        ["data.idx: document 3 has -300 tokens", "data.idx: document 4 begins at byte 1,232, not where"],
    ),
    "length too large": (put(idx_path, LENGTHS, "<i", 2), ["data.idx: document 1 begins at byte 4, not where"]),
    "pointer": (put(idx_path, POINTERS + 16, "<q", -16), ["data.idx: document 2 begins at byte -16, not where"]),
    "first pointer": (put(idx_path, POINTERS, "<q", 4), ["data.idx: document 0 begins at byte 4, not where"]),
    "document index": (put(idx_path, ENDS + 24, "<q", 4), ["data.idx: entry 4 of the document index is 4; it must"]),
    "document index beyond": (put(idx_path, ENDS + 8, "<q", 6), ["data.idx: entry 1 of the document index is 6; it"]),
    "document index low": (put(idx_path, ENDS, "<q", -1), ["data.idx: entry 0 of the document index is -1; it"]),
    "id negative": (put(bin_path, 4 * 10, "<i", -1), ["data.bin: token 10 is id -1, not one of 0 to 511"]),
    "id too large": (put(bin_path, 4 * 308, "<i", 512), ["data.bin: token 308 is id 512, not one of 0 to 511"]),
    "download cut": (lambda prefix: prefix.with_name("b.bin.pieces").touch(), ["b.bin.pieces: left by work that was"]),
    "tokenize cut": (
        lambda prefix: [prefix.with_name(f"b.{end}").touch() for end in ("bin.partial", "checkpoint.json")],
        ["b.bin.partial: left by work that was cut short", "b.checkpoint.json: left by work that was cut short"],
    ),
    "manifest alone": (lambda prefix: prefix.with_name("b.manifest.json").touch(), ["b.idx: no such file"]),
}


@pytest.mark.parametrize("block", [1, 2, 1 << 20])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_noticed(
    data: Path, tokenizer: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, name: str, block: int
) -> None:
    damage, lines = DAMAGES[name]
    monkeypatch.setattr(token_scan, "BLOCK", block)
    assert doubts(capsys, data.parent, tokenizer) == []
    damage(data)
    found = doubts(capsys, data.parent, tokenizer)
    assert len(found) == len(lines), found
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(f"{data.parent}/{start}")


def test_unknown_vocabulary(data: Path, capsys: Output) -> None:
    put(bin_path, 4 * 10, "<i", 1 << 30)(data)
    assert doubts(capsys, data) == []
    put(bin_path, 4 * 10, "<i", -7)(data)
    assert doubts(capsys, data) == [f"{bin_path(data)}: token 10 is id -7, not one of 0 to {2**31 - 1}"]


def test_type_too_small(tmp_path: Path, llamas: Path, capsys: Output) -> None:
    prefix = built(tmp_path / "data", [[1, 65_535]], "uint16")
    assert doubts(capsys, prefix) == []
    assert doubts(capsys, prefix, llamas) == [f"{idx_path(prefix)}: uint16 cannot hold the ids of {llamas}"]


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
    assert doubts(capsys, prefix, tokenizer) == []
    assert (summary(prefix).documents, summary(prefix).tokens) == (5, 309)
    ends = HEADER.size + 12 * summary(prefix).stored_sequences
    put(idx_path, ends + 16, "<q", 1)(prefix)
    (line,) = doubts(capsys, prefix)
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


def test_no_byte_of_an_index_can_change(data: Path, capsys: Output) -> None:
    right = idx_path(data).read_bytes()
    for place in range(len(right)):
        idx_path(data).write_bytes(right[:place] + bytes([right[place] ^ 0xFF]) + right[place + 1 :])
        assert doubts(capsys, data), f"byte {place}"


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
    (line,) = doubts(capsys, made)
    assert line == f"{manifest_path(made)}: says {name}={MANIFEST[name]}, but it is {content[name]}"


def test_manifest(made: Path, tokenizer: Path, llamas: Path, capsys: Output) -> None:
    assert doubts(capsys, made) == doubts(capsys, made, tokenizer) == []
    right = bin_path(made).read_bytes()
    put(bin_path, 0, "<H", struct.unpack_from("<H", right, 2)[0])(made)  # another id, and no new one
    (line,) = doubts(capsys, made)
    assert line.startswith(f"{manifest_path(made)}: says bin_sha256=")
    bin_path(made).write_bytes(right)
    found = doubts(capsys, made, llamas)
    assert f"{manifest_path(made)}: the data was made with another tokenizer than {llamas}" in found
    manifest_path(made).write_text("{}")
    (line,) = doubts(capsys, made)
    assert line.startswith(f"{manifest_path(made)}: not a manifest of a token file")


def test_skipped_lines_are_shown(tmp_path: Path, tokenizer: Path, capsys: Output) -> None:
    source = tmp_path / "in.json"
    source.write_text('{"text":"good"}\n' + "bad\n" * 5)
    tokenize([source], tmp_path / "made", tokenizer, bad_line_limit=5, quiet=True)
    assert verify_table.verify(tmp_path / "made", None, head=0) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "note: " in line]
    assert line.startswith("    note: bad lines skipped: 5: in.json:2 (not JSON: Expecting value: ")
    assert line.endswith(" and 2 more")


def test_left_over_of_a_prefix(data: Path, capsys: Output) -> None:
    data.with_name("data2.bin.partial").touch()
    assert doubts(capsys, data) == []
    data.with_name("data.bin.partial").touch()
    assert len(doubts(capsys, data)) == 1


def test_data_that_becomes_shorter(data: Path) -> None:
    file = summary(data)
    with pytest.raises(UserError, match=r"data\.bin: became shorter while it was read"), Progress("", 0) as progress:
        token_scan.scan(replace(file, tokens=file.tokens + 1), 511, False, progress)


def test_known_counts_are_the_published_sizes() -> None:
    part = rules.KNOWN_COUNTS[PART_6]
    assert part.tokens * TokenType.int32.itemsize == 83_976_774_280
    assert HEADER.size + 20 * part.documents + 8 == 912_172_262
    assert part.documents == 45_608_611


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
    assert doubts(capsys, prefix, llamas) == [start]
    assert doubts(capsys, prefix) == [f"{start}; if another tokenizer made it, name that by --tokenizer"]
    assert doubts(capsys, prefix, tokenizer) == []
    write(lengths[1:])
    assert doubts(capsys, prefix, tokenizer) == [f"{idx_path(prefix)}: 91,204 documents, MLCommons' has 91,205"]


def test_part_6(tmp_path: Path, llamas: Path, tokenizer: Path, capsys: Output) -> None:
    """Part 6 of another corpus is right where it was made with another tokenizer."""
    prefix = built(tmp_path / PART_6)
    assert doubts(capsys, prefix, llamas) == [
        f"{idx_path(prefix)}: 5 documents, MLCommons' has 45,608,611",
        f"{idx_path(prefix)}: 309 tokens, MLCommons' has 20,994,193,570",
    ]
    assert len(doubts(capsys, prefix)) == 2
    built(prefix, dtype="uint16")
    assert doubts(capsys, prefix) == []
    assert verify_table.verify(prefix, tokenizer, head=0) == 0
    assert "not checked: hashes (no manifest to go by); MLCommons' counts (of" in capsys.readouterr().out


def test_head(made: Path, tokenizer: Path) -> None:
    shutil.copy(bin_path(made), bin_path(made.with_name("alone")))
    done = command(made.parent, "--head=5", TOKENIZER_PATH=str(tokenizer))
    assert done.returncode == 1, "alone.bin has no index"
    first, text, second, *lines = done.stdout.splitlines()
    assert first.startswith("--- made, document 0: ")
    assert text == TEXTS[0]
    assert second.startswith("--- made, document 1: ")
    assert lines[:2] == ["Second:\\r", "\\x1b[31m two lines"]
    assert lines[2].startswith("--- made, document 2: ")
    assert lines[3].startswith("word word word")
    assert lines[4].startswith("[and ")
    assert lines[4].endswith(" tokens more]")
    assert lines[5].startswith("token file ")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (put(bin_path, 0, "<i", -3), "[not decoded: id -3 is not the tokenizer's]"),
        (put(bin_path, 0, "<i", 512), "[not decoded: id 512 is not the tokenizer's]"),
        (put(idx_path, LENGTHS, "<i", -3), "[not within the data]"),
        (put(idx_path, LENGTHS, "<i", 2**31 - 1), "[not within the data]"),
    ],
)
def test_head_of_damaged_data(data: Path, tokenizer: Path, capsys: Output, damage: Damage, text: str) -> None:
    damage(data)
    assert verify_table.verify(data, tokenizer, head=1) == 1
    assert capsys.readouterr().out.splitlines()[1] == text
