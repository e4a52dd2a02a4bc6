"""utils/parallel_compress_json_to_gz.sh, as a user runs it."""

import gzip
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from checkout import REPOSITORY

from llama31.common.errors import UserError
from llama31.corpus import compress as module
from llama31.corpus.compress import compress

SCRIPT = REPOSITORY / "utils" / "parallel_compress_json_to_gz.sh"


def make_files(directory: Path, count: int = 6, size: int = 300_000) -> dict[str, bytes]:
    """Files of C4's names; gives their contents."""
    directory.mkdir()
    contents = {}
    for number in range(count):
        words = random.Random(number).choices(["corpus", "token", "\\n", "é", "0123"], k=size // 5)
        contents[f"c4-train.{number:05d}-of-01024.json"] = ("".join(words) + "\n").encode()
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return contents


def start(directory: Path, **env: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "LLAMA31_VENV": sys.prefix, "C4_PATH": str(directory), **env}
    return subprocess.Popen(
        ["bash", SCRIPT],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(directory: Path, expect: int = 0, **env: str) -> tuple[str, str]:
    process = start(directory, **env)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == expect, errors
    return out, errors


def contents_of(directory: Path) -> dict[str, bytes]:
    """Contents of the directory's files, compressed or not, by name without .gz; each file once."""
    found = {}
    for path in directory.iterdir():
        assert not path.name.endswith(".partial"), path
        name = path.name.removesuffix(".gz")
        assert name not in found
        found[name] = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return found


def test_gzip_data_without_its_name_is_not_compressed_again(tmp_path: Path) -> None:
    source = tmp_path / "c4-train.00000-of-01024.json"
    source.write_bytes(gzip.compress(b"{}\n"))
    with pytest.raises(UserError) as error:
        compress(tmp_path, jobs=1)
    assert error.value.lines == [f"{source}: contains gzip data; rename it to {source.name}.gz"]
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_sources_become_gz_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "a $HOME of c4"
    contents = make_files(directory)
    (directory / "tokenizer.json").write_text("{}")
    out, errors = run(directory, JOBS="2")
    assert out.startswith(f"{directory}: 6 files compressed, ")
    assert not errors, "progress belongs to a terminal"
    assert (directory / "tokenizer.json").read_text() == "{}"
    (directory / "tokenizer.json").unlink()
    assert contents_of(directory) == contents
    assert len(list(directory.glob("*.gz"))) == 6
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    out, _ = run(directory)
    assert out == f"{directory}: nothing to do, all 6 files are compressed\n"
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


@pytest.mark.slow
def test_kills_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL at points spread over the work; the files stay complete each time, and finally all are compressed."""
    directory = tmp_path / "c4"
    contents = make_files(directory, count=24)
    for goal in (1, 7, 15):  # compressed files to wait for before the kill
        process = start(directory)
        while process.poll() is None and len(list(directory.glob("*.json.gz"))) < goal:
            pass
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for path in directory.glob("*.partial"):
            assert path.with_name(path.name.removesuffix(".gz.partial")).is_file(), "the source is still there"
        for name, content in contents.items():
            plain, compressed = directory / name, directory / f"{name}.gz"
            assert (plain.exists() and plain.read_bytes() == content) or gzip.decompress(
                compressed.read_bytes()
            ) == content
    run(directory)
    assert contents_of(directory) == contents


def test_killed_between_rename_and_removal(tmp_path: Path) -> None:
    directory = tmp_path / "c4"
    contents = make_files(directory, count=2)
    first, second = sorted(contents)
    (directory / f"{first}.gz").write_bytes(gzip.compress(contents[first]))
    (directory / f"{second}.gz").write_bytes(gzip.compress(contents[first]))  # not what this one would give
    out, errors = run(directory, expect=2)
    assert errors == f"{directory}/{second}.gz: exists, with other data than {second}; remove one of the two\n"
    assert not out
    assert not (directory / first).exists()
    assert (directory / second).read_bytes() == contents[second]
    (directory / f"{second}.gz").write_bytes(gzip.compress(contents[second])[:-5])  # a damaged one is no proof either
    run(directory, expect=2)
    assert (directory / second).read_bytes() == contents[second]


def test_a_file_that_fails_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    directory = tmp_path / "c4"
    contents = make_files(directory)
    bad = sorted(contents)[2]
    (directory / f"{bad}.gz.partial").symlink_to("/dev/full")
    _, errors = run(directory, expect=2)
    assert errors == f"{directory}/{bad}.gz: No space left on device\n"
    assert [path.name for path in directory.glob("*.json")] == [bad]
    run(directory)
    assert contents_of(directory) == contents


def test_source_stays_when_the_file_reads_back_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that returns other bytes than were written."""
    directory = tmp_path / "c4"
    contents = make_files(directory, count=1)

    def flip(file: BinaryIO) -> None:
        file.flush()
        data = bytearray(Path(file.name).read_bytes())
        data[len(data) // 2] ^= 1
        Path(file.name).write_bytes(data)

    monkeypatch.setattr(module, "_drop_from_memory", flip)
    with pytest.raises(UserError, match="does not read back"):
        compress(directory, 1)
    assert contents_of(directory) == contents
    assert not list(directory.glob("*.gz"))


def test_two_runs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "c4"
    contents = make_files(directory, count=1)
    at_work, go_on = threading.Event(), threading.Event()

    def wait(file: BinaryIO) -> None:
        file.flush()
        at_work.set()
        assert go_on.wait(60)

    monkeypatch.setattr(module, "_drop_from_memory", wait)
    first = threading.Thread(target=compress, args=(directory, 1))
    first.start()
    try:
        assert at_work.wait(60)
        _, errors = run(directory, expect=2)
        assert errors == f"{directory}: another run is using it; wait until that ends\n"
    finally:
        go_on.set()
        first.join()
    assert contents_of(directory) == contents


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "C4_PATH: set it to the directory with the .json files of C4"),
        ("nowhere", "nowhere: No such file or directory"),
        (".", ".: no c4-*.json and no c4-*.json.gz in it"),
    ],
)
def test_mistakes_are_one_line(path: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, errors = run(Path("x"), expect=2, C4_PATH=path)
    assert errors.endswith(f"{line}\n")
    assert errors.count("\n") == 1
