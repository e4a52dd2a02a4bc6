"""Files past the page cache: the same bytes, at any size and offset, and where O_DIRECT does not exist."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from llama31.common import direct_file
from llama31.common.direct_file import BLOCK, BUFFER, DirectReader, DirectWriter


def refuse_to_open(monkeypatch: pytest.MonkeyPatch, error: int = errno.EINVAL) -> None:
    """As file systems without O_DIRECT do."""
    real = os.open

    def opened(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(error, os.strerror(error))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", opened)


def refuse_as_servers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some servers in user space do."""
    refuse_to_open(monkeypatch, errno.EOPNOTSUPP)


def refuse_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems whose blocks are larger do."""
    monkeypatch.setattr(direct_file, "SMALL", 1)
    monkeypatch.setattr(direct_file, "BLOCK", 8)


@pytest.fixture(
    params=[lambda _: None, refuse_to_open, refuse_as_servers_do, refuse_transfers],
    ids=["direct", "no O_DIRECT", "not supported", "large blocks"],
)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    change: Callable[[pytest.MonkeyPatch], None] = request.param
    change(monkeypatch)


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BUFFER, 2 * BUFFER + 12345])
def test_it_writes_and_reads_what_it_was_given(size: int, tmp_path: Path) -> None:
    numbers, contents, path = random.Random(size), random.Random(size).randbytes(size), tmp_path / "file"
    with DirectWriter(path) as file:
        while (position := file.tell()) < size:
            piece = contents[position : position + numbers.choice([1, 1000, BLOCK, 3_000_000])]
            assert file.write(piece) == len(piece)
    assert path.read_bytes() == contents
    with DirectReader(path) as read:
        assert read.read() == contents
        for _ in range(50):
            start, length = numbers.randrange(size + 10), numbers.choice([1, 100, 2 * BLOCK, 1_000_000])
            read.seek(start)
            assert read.read(length) == contents[start : start + length]


@pytest.mark.usefixtures("file_system")
@pytest.mark.parametrize("size", [1, BLOCK, BUFFER + 1, 2 * BUFFER + 12345])
def test_it_appends_to_what_it_synced(size: int, tmp_path: Path) -> None:
    numbers, contents, path = random.Random(size), random.Random(size).randbytes(2 * size), tmp_path / "file"
    file = DirectWriter(path)
    done = 0
    for end in sorted({*numbers.choices(range(2 * size), k=10), size, 2 * size}):
        file.write(contents[done:end])
        file.sync()
        assert path.read_bytes() == contents[:end], "it is as long as it says"
        done = end
        if numbers.random() < 0.5:  # the process is killed, having written more, and another one resumes
            file.write(contents)
            file.close()
            file = DirectWriter(path, done)
            assert file.tell() == done == path.stat().st_size
    file.close()
    assert path.read_bytes() == contents


def test_a_full_disk_raises() -> None:
    with pytest.raises(OSError, match="No space left") as error, DirectWriter(Path("/dev/full")) as file:
        file.write(b"x")
    assert error.value.errno == errno.ENOSPC


def test_a_block_that_failed_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyError), DirectWriter(tmp_path / "file") as file:
        file.write(b"x")
        raise KeyError
    assert (tmp_path / "file").stat().st_size == 0
