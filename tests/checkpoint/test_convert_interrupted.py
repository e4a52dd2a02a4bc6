"""Conversions that are killed, interrupted, out of disk space or started twice: the next one resumes."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import REPOSITORY
from conversions import TIMEOUT, bits, tensors

from llama31.checkpoint.convert import convert, to_hugging_face
from llama31.checkpoint.formats import nemo
from llama31.common.errors import UserError
from llama31.common.progress import Progress

pytestmark = pytest.mark.slow


# --- Interruptions ------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from llama31.cli import main as cli
from llama31.common.progress import Progress
from llama31.common.errors import UserError
from llama31.model.cpu_backend import one_rank
left, add = int(sys.argv.pop(1)), Progress.add
def killed(self, count):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, count)
Progress.add = killed
cli.main()
"""


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in directory.iterdir() if path.suffix in (".distcp", ".safetensors")}


def test_a_killed_conversion_is_resumed(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    destination = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "20", "convert"]
    command += ["--source", str(models / "3.1"), "--destination", str(destination)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=TIMEOUT, check=False)
    assert done.returncode == -9, done.stderr
    assert not destination.exists()
    started = inodes(tmp_path / "out.partial" / "weights")
    assert started
    assert convert.convert(models / "3.1", destination, "nemo") == 0
    assert "resuming" in capsys.readouterr().err
    finished = inodes(destination / "weights")
    assert len(finished) > len(started)
    assert started.items() <= finished.items(), "written again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in destination.iterdir()) == ["context", "conversion.json", "weights"]


class Interrupted(Exception):
    pass


def interrupt_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, add = count, Progress.add

    def interrupted(self: Progress, size: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Interrupted
        add(self, size)

    monkeypatch.setattr(Progress, "add", interrupted)


@pytest.mark.parametrize("count", [0, 2, 5, 20, 35])
def test_an_interrupted_export_is_resumed(
    count: int, converted: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(to_hugging_face, "FILE_BYTES", 100_000)
        with monkeypatch.context() as inner, pytest.raises(Interrupted):
            interrupt_at(count, inner)
            convert.convert(converted / "3.1", tmp_path / "out", "hf")
        assert not (tmp_path / "out").exists()
        started = inodes(tmp_path / "out.partial")
        assert convert.convert(converted / "3.1", tmp_path / "out", "hf") == 0
    assert started.items() <= inodes(tmp_path / "out").items()
    found = tensors(tmp_path / "out")
    assert all(torch.equal(bits(found[name]), bits(value)) for name, value in tensors(models / "3.1").items())


def test_another_source_starts_from_scratch(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as inner, pytest.raises(Interrupted):
        interrupt_at(12, inner)
        convert.convert(models / "3.1", tmp_path / "out", "nemo")
    assert convert.convert(models / "3.2 tied, wide heads", tmp_path / "out", "nemo") == 0
    assert "resuming" not in capsys.readouterr().err
    assert nemo.inspect(tmp_path / "out").architecture.vocab_size == 501


def test_a_kill_before_there_is_a_record(models: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / f"{convert.RECORD}.partial").write_text('{"to"')
    assert convert.convert(models / "3.1", tmp_path / "out", "nemo") == 0
    assert not (tmp_path / "out" / f"{convert.RECORD}.partial").exists()


def test_a_full_disk_is_reported_and_the_conversion_can_be_resumed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as inner, pytest.raises(Interrupted):
        interrupt_at(12, inner)
        convert.convert(models / "3.1", tmp_path / "out", "nemo")
    weights = tmp_path / "out.partial" / "weights"
    (weights / "__0_3.distcp.partial").symlink_to("/dev/full")
    with pytest.raises(UserError) as error:
        convert.convert(models / "3.1", tmp_path / "out", "nemo")
    assert error.value.lines == [f"{weights / '__0_3.distcp'}: No space left on device"]
    assert convert.convert(models / "3.1", tmp_path / "out", "nemo") == 0


def test_notes_that_cannot_be_removed_are_not_published(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing(os.unlink))
        with pytest.raises(UserError, match="Input/output error"):
            convert.convert(models / "3.1", destination, "nemo")
    assert not destination.exists()
    assert convert.convert(models / "3.1", destination, "nemo") == 0
    assert sorted(path.name for path in destination.iterdir()) == ["context", "conversion.json", "weights"]


def refusing(unlink: Any) -> Any:
    """os.unlink that fails on the notes of a conversion."""

    def refused(path: Any, **options: Any) -> None:
        if str(path).endswith(".distcp.json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, **options)

    return refused


def test_one_conversion_at_a_time(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second_conversion(*_: Any) -> None:
        convert.convert(models / "3.1", tmp_path / "out", "nemo")

    monkeypatch.setattr(convert, "_write_and_compare", second_conversion)
    with pytest.raises(UserError) as error:
        convert.convert(models / "3.1", tmp_path / "out", "nemo")
    assert error.value.lines == [f"{tmp_path / 'out.partial'}: another run is using it; wait until that ends"]
