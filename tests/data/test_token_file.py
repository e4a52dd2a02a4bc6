"""Token files, judged by Megatron's own reader and builder."""

import struct
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from llama31.common.errors import UserError
from llama31.corpus import token_writer
from llama31.corpus.token_writer import TokenWriter
from llama31.data import token_file
from llama31.data.token_file import HEADER, TokenType, bin_path, idx_path, summary

DOCUMENTS = [[5], [1, 2, 3], [0, 499, 7, 7], list(range(300)), [9]]


def write(prefix: Path, token_type: TokenType, documents: list[list[int]]) -> None:
    with TokenWriter(prefix, token_type) as writer:
        for ids in documents:
            writer.write(array(token_type.typecode, ids).tobytes(), array("i", [len(ids)]).tobytes())


def built_by_megatron(prefix: Path, token_type: TokenType, documents: list[list[int]]) -> None:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=getattr(np, token_type.name))
    for ids in documents:
        builder.add_item(torch.IntTensor(ids))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def only_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert len(error.value.lines) == 1
    assert "\n" not in error.value.lines[0]
    return error.value.lines[0]


@pytest.mark.parametrize("token_type", TokenType)
@pytest.mark.parametrize("block", [1, 2, 1 << 20])
def test_bytes_are_megatrons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token_type: TokenType, block: int
) -> None:
    monkeypatch.setattr(token_writer, "BLOCK_DOCUMENTS", block)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(ours, token_type, DOCUMENTS)
    built_by_megatron(theirs, token_type, DOCUMENTS)
    assert bin_path(ours).read_bytes() == bin_path(theirs).read_bytes()
    assert idx_path(ours).read_bytes() == idx_path(theirs).read_bytes()
    assert [ids.tolist() for ids in IndexedDataset(str(ours))] == DOCUMENTS
    assert {path.name for path in tmp_path.iterdir()} == {"ours.bin", "ours.idx", "theirs.bin", "theirs.idx"}


@pytest.mark.parametrize("token_type", TokenType)
def test_summary_reads_what_megatron_built(tmp_path: Path, token_type: TokenType) -> None:
    prefix = tmp_path / "data.en"
    built_by_megatron(prefix, token_type, DOCUMENTS)
    found = summary(prefix)
    flat = [number for ids in DOCUMENTS for number in ids]
    assert (found.documents, found.tokens, found.token_type) == (len(DOCUMENTS), len(flat), token_type)
    assert found.first_tokens(6).tolist() == flat[:6]
    assert found.last_tokens(6).tolist() == flat[-6:]
    assert found.first_tokens(10_000).tolist() == found.last_tokens(10_000).tolist() == flat
    assert [found.sequences(length) for length in (1, 77, 308, 309)] == [308, 4, 1, 0]


def test_types_are_megatrons() -> None:
    from megatron.core.datasets.indexed_dataset import DType

    for size in (1, 65_499, 65_500, 65_536, 128_256):
        assert TokenType.for_vocabulary(size).name == DType.optimal_dtype(size).__name__
    for token_type in TokenType:
        assert token_type.code == DType[token_type.name].value
        assert token_type.itemsize == DType.size(token_type.code) == array(token_type.typecode).itemsize


def changed(offset: int, form: str, value: object):  # type: ignore[no-untyped-def]
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        struct.pack_into(form, data, offset % len(data), value)
        path.write_bytes(data)

    return change


def cut(count: int):  # type: ignore[no-untyped-def]
    return lambda path: path.write_bytes(path.read_bytes()[:-count])


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\x00\x00")


BAD = {
    "bin missing": (bin_path, Path.unlink, "no such file"),
    "idx missing": (idx_path, Path.unlink, "no such file"),
    "bin empty": (bin_path, lambda path: path.write_bytes(b""), "is empty"),
    "idx empty": (idx_path, lambda path: path.write_bytes(b""), "is empty"),
    "bin truncated": (bin_path, cut(2), "truncated: 616 bytes instead of the 618"),
    "bin too long": (bin_path, lengthened, "too long: 620 bytes"),
    "idx truncated": (idx_path, cut(1), "truncated: 141 bytes instead of the 142"),
    "idx cut in header": (idx_path, cut(142 - 20), "truncated within its header: 20 of 34 bytes"),
    "idx too long": (idx_path, lengthened, "too long: 144 bytes"),
    "other file": (idx_path, lambda path: path.write_bytes(b"PK\x03\x04" * 40), "not a Megatron index"),
    "version": (idx_path, changed(9, "<Q", 2), "index version 2"),
    "type": (idx_path, changed(17, "<B", 7), "dtype code 7"),
    "count": (idx_path, changed(18, "<Q", 2**40), "truncated: 142 bytes instead of the"),
    "document index": (idx_path, changed(-8, "<q", 4), "damaged"),
    "pointer": (idx_path, changed(34 + 4 * 5 + 8 * 4, "<q", -2), "damaged"),
    "length": (idx_path, changed(34 + 4 * 4, "<i", 3), "truncated: 618 bytes instead of the 622"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_line(tmp_path: Path, name: str) -> None:
    prefix = tmp_path / "data"
    write(prefix, TokenType.uint16, DOCUMENTS)
    file, spoil, message = BAD[name]
    spoil(file(prefix))
    with pytest.raises(UserError) as error:
        summary(prefix)
    line = only_line(error)
    assert message in line
    assert str(tmp_path) in line


@pytest.mark.parametrize("documents", [[], [[]]])
def test_nothing_in_it(tmp_path: Path, documents: list[list[int]]) -> None:
    built_by_megatron(tmp_path / "data", TokenType.int32, documents)
    bin_path(tmp_path / "data").touch()
    with pytest.raises(UserError) as error:
        summary(tmp_path / "data")
    assert "is empty" in only_line(error)
    bin_path(tmp_path / "data").write_bytes(bytes(4))
    with pytest.raises(UserError) as error:
        summary(tmp_path / "data")
    assert "holds no documents" in only_line(error) or "too long" in only_line(error)


def test_failure_leaves_existing_files(tmp_path: Path) -> None:
    prefix = tmp_path / "data"
    write(prefix, TokenType.int32, DOCUMENTS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt), TokenWriter(prefix, TokenType.uint16) as writer:
        writer.write(b"\x01\x00", array("i", [1]).tobytes())
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("file", [bin_path, idx_path])
def test_full_disk(tmp_path: Path, file) -> None:  # type: ignore[no-untyped-def]
    prefix = tmp_path / "data"
    full = file(prefix)
    full.with_name(f"{full.name}.partial").symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        write(prefix, TokenType.int32, DOCUMENTS)
    assert only_line(error) == f"{full}: No space left on device"
    assert not list(tmp_path.iterdir())


def test_summary_needs_a_few_reads_only(tmp_path: Path) -> None:
    """The published part 6 has 45,608,611 documents in 84 GB: a plan must not read them (sparse files here)."""
    prefix, documents, size = tmp_path / "part", 45_608_611, 83_976_774_280
    with open(idx_path(prefix), "wb") as file:
        file.write(HEADER.pack(token_file.MAGIC, 1, 4, documents, documents + 1))
        file.seek(34 + 4 * (documents - 1))
        file.write(struct.pack("<i", 5))
        file.seek(34 + 12 * documents - 8)
        file.write(struct.pack("<q", size - 20))
        file.seek(34 + 20 * documents)
        file.write(struct.pack("<q", documents))
    assert idx_path(prefix).stat().st_size == 912_172_262
    with open(bin_path(prefix), "wb") as file:
        file.truncate(size)
    found = summary(prefix)
    assert (found.documents, found.tokens) == (documents, size // 4)
