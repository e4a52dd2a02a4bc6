"""New files of a checkpoint are read back: their SHA-256, and the CRC-32 of each tensor."""

import hashlib
from pathlib import Path

import pytest
import torch

from llama31.checkpoint import read_back
from llama31.common import files
from llama31.common.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, list[tuple[int, int]]]:
    """A file with three tensors, as torch's distributed checkpoint writes them, and where they are."""
    path, blobs = tmp_path / "__0_0.distcp", []
    with path.open("wb") as stream:
        for number in (10, 1_000_000, 3):
            start = stream.tell()
            torch.save(torch.arange(number), stream)
            blobs.append((start, stream.tell() - start))
    return path, blobs


@pytest.mark.parametrize("chunk", [1000, 1 << 20, files.HASH_BYTES])
def test_size_and_hash(chunk: int, file: tuple[Path, list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_back, "HASH_BYTES", chunk)
    path, blobs = file
    expected = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_back.size_and_sha256(path, blobs) == expected == read_back.size_and_sha256(path)


@pytest.mark.parametrize("place", [0.0, 0.1, 0.5, 0.9, 0.999999])
def test_one_wrong_bit_is_found(place: float, file: tuple[Path, list[tuple[int, int]]]) -> None:
    """In the numbers of the second tensor."""
    path, blobs = file
    contents = bytearray(path.read_bytes())
    numbers = torch.arange(1_000_000).numpy().tobytes()
    contents[contents.index(numbers) + int(place * len(numbers))] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match=f"what the disk gives back is not what was .*, from byte {blobs[1][0]}"):
        read_back.size_and_sha256(path, blobs)


@pytest.mark.parametrize("missing", [1, 500, 5000])
def test_a_short_file_is_found(missing: int, file: tuple[Path, list[tuple[int, int]]]) -> None:
    path, blobs = file
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(UserError, match="what the disk gives back is not what was written"):
        read_back.size_and_sha256(path, blobs)
