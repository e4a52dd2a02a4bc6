"""Reading gzip files of several members, as they lie on disk."""

import gzip
import io

import pytest
from isal import isal_zlib

from llama31.corpus import gzip_members
from llama31.corpus.gzip_members import Gunzip

ONE = gzip.compress(b"one\n" * 100)
TWO = gzip.compress(b"two\n")


def read(data: bytes) -> bytes:
    gunzip = Gunzip(io.BytesIO(data))
    return b"".join(iter(lambda: gunzip.read(7), b""))


@pytest.mark.parametrize("data", [ONE, ONE + TWO, ONE + bytes(5) + TWO + bytes(300), gzip.compress(b"") + TWO])
@pytest.mark.parametrize("at_a_time", [1, 10, 1 << 20])
def test_members_and_padding(data: bytes, at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gzip_members, "READ_BYTES", at_a_time)
    assert read(data) == gzip.decompress(data)


@pytest.mark.parametrize("data", [b"", ONE[:1], ONE[:-1], ONE + TWO[:5], ONE + TWO[:-1]])
def test_cut_short(data: bytes) -> None:
    """A file without any member as well: gzip never writes one."""
    with pytest.raises(EOFError):
        read(data)


def test_not_gzip() -> None:
    with pytest.raises(isal_zlib.error):
        read(b"two\n" * 10)
