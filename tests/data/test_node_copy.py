"""Copies of the token files on a node's own disk."""

import multiprocessing
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from built_data import copy_of, settings_for

from llama31.common.errors import UserError
from llama31.common.files import sha256_of
from llama31.config import paths
from llama31.data import node_copy, token_manifest
from llama31.data.token_file import bin_path, idx_path, summary
from llama31.data.token_manifest import TokenManifest
from llama31.settings import Settings

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def settings(tiny_data: dict[str, str], tmp_path: Path) -> Settings:
    """Settings of a run on data of its own, with a manifest for the first part, and copies."""
    own = copy_of(settings_for(tiny_data, tmp_path), tmp_path / "shared")
    prefix = paths.train_prefixes(own)[0]
    file = summary(prefix)
    token_manifest.write(
        prefix,
        TokenManifest(
            inputs=[],
            input_bytes=[],
            input_sha256=[],
            json_key="text",
            tokenizer_sha256="",
            vocabulary_size=512,
            append_eod=False,
            eod_id=None,
            dtype=file.token_type.name,
            documents=file.documents,
            tokens=file.tokens,
            largest_id=511,
            bin_sha256=sha256_of(bin_path(prefix)),
            idx_sha256=sha256_of(idx_path(prefix)),
            versions={},
        ),
    )
    return replace(own, copy_data_to=str(tmp_path / "node" / "data"))


def contents(directory: str | Path) -> dict[str, bytes]:
    """All files in a directory but the lock."""
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.name != node_copy.LOCK}


def test_copies_are_equal_and_used_again(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    node_copy.ensure(settings)
    assert contents(settings.copy_data_to) == contents(settings.preprocessed_path)
    assert len(contents(settings.copy_data_to)) == 7, "three token files of two, and a manifest"
    first = capsys.readouterr().out
    assert ": copied and verified " in first and f" in COPY_DATA_TO={settings.copy_data_to}: " in first
    made = {path: path.stat().st_ino for path in Path(settings.copy_data_to).iterdir()}
    node_copy.ensure(settings)
    assert "the copies of an earlier run are used" in capsys.readouterr().out
    assert {path: path.stat().st_ino for path in Path(settings.copy_data_to).iterdir()} == made


@pytest.mark.parametrize("change", ["cut short", "other tokens", "other source"])
def test_what_differs_is_copied_again(settings: Settings, change: str) -> None:
    node_copy.ensure(settings)
    changed = bin_path(paths.train_prefixes(settings)[1])
    copy = Path(settings.copy_data_to) / changed.name
    others = {path: path.stat().st_ino for path in copy.parent.iterdir() if path != copy}
    if change == "cut short":
        os.truncate(copy, 100)
    else:
        target = copy if change == "other tokens" else changed
        status = target.stat()
        content = bytearray(target.read_bytes())
        content[-1] ^= 1
        target.write_bytes(content)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    node_copy.ensure(settings)
    assert contents(settings.copy_data_to) == contents(settings.preprocessed_path)
    assert {path: path.stat().st_ino for path in copy.parent.iterdir() if path != copy} == others


def test_a_source_that_is_not_as_its_manifest_says_is_refused(settings: Settings) -> None:
    damaged = bin_path(paths.train_prefixes(settings)[0])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError) as refused:
        node_copy.ensure(settings)
    (line,) = refused.value.lines
    assert line.startswith(f"{damaged}: its SHA-256 is not the manifest's")
    assert damaged.name not in contents(settings.copy_data_to)
    assert not list(Path(settings.copy_data_to).glob("*.partial*"))


def test_a_killed_copy_leaves_nothing_under_a_final_name(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = FORK.Semaphore(0)

    def hang(*_: object, **__: object) -> None:
        copied.release()
        threading.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(node_copy, "size_and_sha256", hang)
        process = FORK.Process(target=node_copy.ensure, args=(settings,))
        process.start()
    for _ in range(node_copy.AT_ONCE):
        assert copied.acquire(timeout=60), "a copy did not come to be read back"
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    left = contents(settings.copy_data_to)
    assert left and not left.keys() & contents(settings.preprocessed_path).keys()
    node_copy.ensure(settings)
    assert contents(settings.copy_data_to) == contents(settings.preprocessed_path)


def test_processes_at_the_same_time_copy_once(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    processes = [FORK.Process(target=node_copy.ensure, args=(settings,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    said = capfd.readouterr().out
    assert said.count("copied and verified") == 1 and said.count("copies of an earlier run are used") == 3
    assert contents(settings.copy_data_to) == contents(settings.preprocessed_path)


def test_too_little_room_and_no_permission_are_one_line(settings: Settings, small_disk: Path) -> None:
    large = bin_path(paths.train_prefixes(settings)[1])
    os.truncate(large, 9_000_000)
    full = replace(settings, copy_data_to=str(small_disk / "data"))
    (line,) = node_copy.problems(full)
    assert line.startswith(f"COPY_DATA_TO={full.copy_data_to}: the token files to copy take 9.") and "MB free" in line
    with pytest.raises(UserError, match="the disk has"):
        node_copy.ensure(full)
    assert contents(full.copy_data_to) == {}
    file = small_disk / "file"
    file.touch()
    (line,) = node_copy.problems(replace(settings, copy_data_to=str(file / "data")))
    assert line == f"COPY_DATA_TO={file / 'data'}: not writable; choose another directory"


def test_a_removed_manifest_is_no_manifest(settings: Settings) -> None:
    """The copies of a data set that lost its manifest must not keep theirs: ranks compare them."""
    node_copy.ensure(settings)
    prefix = paths.train_prefixes(settings)[0]
    token_manifest.manifest_path(prefix).unlink()
    node_copy.ensure(settings)
    assert contents(settings.copy_data_to) == contents(settings.preprocessed_path)
