"""`verify` on damaged files: each kind of damage gives its line."""

from dataclasses import replace
from pathlib import Path

import pytest
from verified_files import DOCUMENTS, Damage, Output, problems, put, resize

from llama31.common.errors import UserError
from llama31.common.progress import Progress
from llama31.corpus import token_scan, verify_table
from llama31.data.token_file import HEADER, TokenFile, bin_path, idx_path, summary

LENGTHS, POINTERS, ENDS = (HEADER.size + size * len(DOCUMENTS) for size in (0, 4, 12))  # parts of their index


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
    "download cut": (lambda prefix: prefix.with_name("b.bin.pieces").touch(), ["b.bin.pieces: left by an interrupted"]),
    "tokenize cut": (
        lambda prefix: [prefix.with_name(f"b.{end}").touch() for end in ("bin.partial", "checkpoint.json")],
        ["b.bin.partial: left by an interrupted command", "b.checkpoint.json: left by an interrupted command"],
    ),
    "only a manifest": (lambda prefix: prefix.with_name("b.manifest.json").touch(), ["b.idx: no such file"]),
}


@pytest.mark.parametrize("block", [1, 2, 1 << 20])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_noticed(
    data: Path, tokenizer: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, name: str, block: int
) -> None:
    damage, lines = DAMAGES[name]
    monkeypatch.setattr(token_scan, "BLOCK", block)
    assert problems(capsys, data.parent, tokenizer) == []
    damage(data)
    found = problems(capsys, data.parent, tokenizer)
    assert len(found) == len(lines), found
    for line, start in zip(found, lines, strict=True):
        assert line.startswith(f"{data.parent}/{start}")


def test_unknown_vocabulary(data: Path, capsys: Output) -> None:
    put(bin_path, 4 * 10, "<i", 1 << 30)(data)
    assert problems(capsys, data) == []
    put(bin_path, 4 * 10, "<i", -7)(data)
    assert problems(capsys, data) == [f"{bin_path(data)}: token 10 is id -7, not one of 0 to {2**31 - 1}"]


def test_no_byte_of_an_index_can_change(data: Path, capsys: Output) -> None:
    right = idx_path(data).read_bytes()
    for place in range(len(right)):
        idx_path(data).write_bytes(right[:place] + bytes([right[place] ^ 0xFF]) + right[place + 1 :])
        assert problems(capsys, data), f"byte {place}"


def test_stale_files_of_a_prefix(data: Path, capsys: Output) -> None:
    data.with_name("data2.bin.partial").touch()
    assert problems(capsys, data) == []
    data.with_name("data.bin.partial").touch()
    assert len(problems(capsys, data)) == 1


def test_data_that_becomes_shorter(data: Path) -> None:
    file = summary(data)
    with pytest.raises(UserError, match=r"data\.bin: truncated while it was read"), Progress("", 0) as progress:
        token_scan.scan(replace(file, tokens=file.tokens + 1), 511, False, progress)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (put(bin_path, 0, "<i", -3), "[not decoded: id -3 is not the tokenizer's]"),
        (put(bin_path, 0, "<i", 512), "[not decoded: id 512 is not the tokenizer's]"),
        (put(idx_path, LENGTHS, "<i", -3), "[outside the data]"),
        (put(idx_path, LENGTHS, "<i", 2**31 - 1), "[outside the data]"),
    ],
)
def test_head_of_damaged_data(data: Path, tokenizer: Path, capsys: Output, damage: Damage, text: str) -> None:
    damage(data)
    assert verify_table.verify(data, tokenizer, head=1) == 1
    assert capsys.readouterr().out.splitlines()[1] == text


def test_documents_that_cannot_be_read_are_a_problem(
    data: Path, tokenizer: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the file server answers again when the whole file is read."""
    stock, failures = verify_table.summary, [UserError(f"{data}.bin: Stale file handle")]

    def summary(prefix: Path) -> TokenFile:
        if failures:
            raise failures.pop()
        return stock(prefix)

    monkeypatch.setattr(verify_table, "summary", summary)
    assert verify_table.verify(data, tokenizer, head=1) == 1
    assert "PROBLEM: " + f"{data}.bin: Stale file handle" in capsys.readouterr().out
