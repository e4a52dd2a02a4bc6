"""Reading gzip and zstd files of several members, as they lie on disk."""

import gzip
import io
import subprocess
from pathlib import Path

import debian
import pytest
from backports import zstd

from llama31.corpus import compressed_files
from llama31.corpus.compressed_files import DAMAGED, GZIP, ZSTD, CompressedStream, Format, suffix_problem

WORDS = b"one\n" * 100
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0size"  # what pzstd writes before each frame
GOOD = {
    "gzip": (GZIP, gzip.compress(WORDS)),
    "gzip members": (GZIP, gzip.compress(WORDS) + gzip.compress(b"two\n")),
    "gzip padded": (GZIP, gzip.compress(WORDS) + bytes(5) + gzip.compress(b"two\n") + bytes(300)),
    "gzip empty": (GZIP, gzip.compress(b"") + gzip.compress(b"two\n")),
    "zstd": (ZSTD, zstd.compress(WORDS)),
    "zstd frames": (ZSTD, SKIPPABLE + zstd.compress(WORDS) + SKIPPABLE + zstd.compress(b"") + zstd.compress(b"two\n")),
}


def read(data: bytes, kind: Format) -> bytes:
    members = CompressedStream(io.BytesIO(data), kind)
    return b"".join(iter(lambda: members.read(7), b""))


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("at_a_time", [1, 10, 1 << 20])
def test_members_and_padding(name: str, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from each place between two reads, as a resumed run reads."""
    monkeypatch.setattr(compressed_files, "READ_BYTES", at_a_time)
    kind, data = GOOD[name]
    whole = gzip.decompress(data) if kind is GZIP else zstd.decompress(data)
    assert read(data, kind) == whole
    members, count = CompressedStream(io.BytesIO(data), kind), 0
    while piece := members.read(50):
        count += len(piece)
        back = len(piece) // 2
        offset, skip = members.locate(back)
        assert read(data[offset:], kind)[skip:] == whole[count - back :]


def test_what_the_zstd_program_writes(tmp_path: Path) -> None:
    debian.need("zstd", "zstd")
    source = tmp_path / "in"
    source.write_bytes(WORDS * 1000)
    data = b""
    for options in ([], ["-19", "--check"], ["--long=27"]):
        data += subprocess.run(["zstd", "--stdout", *options, source], capture_output=True, check=True).stdout
    assert read(data, ZSTD) == WORDS * 3000


@pytest.mark.parametrize("name", GOOD)
def test_cut_short(name: str) -> None:
    """A file without any member as well: neither program ever writes one."""
    kind, data = GOOD[name]
    data = data.rstrip(b"\0")
    for end in (0, 1, len(data) - 1):
        with pytest.raises(EOFError):
            read(data[:end], kind)


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_other_data(kind: Format) -> None:
    with pytest.raises(DAMAGED):
        read(b"two\n" * 10, kind)


NAMES = {
    "a.json": (b'{"text":""}', ""),
    "b.json": (gzip.compress(b""), "contains gzip data; rename it to b.json.gz"),
    "c.json.zst": (gzip.compress(b""), "contains gzip data; rename it to c.json.gz"),
    "d.jsonl.gz": (zstd.compress(b""), "contains zstd data; rename it to d.jsonl.zst"),
    "e.json.gz": (b'{"text":""}', "is not gzip data: it begins with b'{\"'; plain data must not be named .gz"),
    "f.json": (SKIPPABLE, "contains zstd data; rename it to f.json.zst"),
    "g.json.gz": (b"", ""),
    "h.json.gz": (b"\x1f", ""),  # cut short
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_compared_with_the_first_bytes(tmp_path: Path, name: str) -> None:
    content, problem = NAMES[name]
    (tmp_path / name).write_bytes(content)
    assert suffix_problem(tmp_path / name) == problem
