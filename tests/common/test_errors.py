"""Failures of disks and file servers: one line that says what failed and where."""

import errno
import os
import sys
from pathlib import Path

import pytest

from llama31.cli import main as cli
from llama31.common.errors import UserError, is_of_disk, line_of
from llama31.common.files import failures_named, sync
from llama31.corpus import verify_table


def test_a_failure_names_its_file_or_the_place_in_our_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError) as named:
        sync(tmp_path / "none")
    assert line_of(named.value) == f"{tmp_path}/none: No such file or directory"

    def fail(_: int) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError) as unnamed:
        sync(tmp_path)
    assert line_of(unnamed.value).startswith("Stale file handle (llama31/common/files.py, line ")
    assert line_of(OSError("5 requested and 0 written")) == "5 requested and 0 written"


@pytest.mark.parametrize(
    ("failed", "said"),
    [
        ("/data/run/mlperf.log", "/data/out: /data/run/mlperf.log: Input/output error"),
        ("/data/out", "/data/out: Input/output error"),
        ("/data/out.1234.partial/code", "/data/out: Input/output error"),
        ("/data", "/data/out: Input/output error"),
        (None, "/data/out: Input/output error"),
    ],
)
def test_what_was_copied_is_named_too(failed: str | None, said: str) -> None:
    with pytest.raises(UserError) as error, failures_named(Path("/data/out")):
        raise OSError(errno.EIO, os.strerror(errno.EIO), failed)
    assert error.value.lines == [said]


def test_failures_of_disks_are_not_damage(tmp_path: Path) -> None:
    with pytest.raises(UserError) as failed, failures_named(tmp_path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    assert is_of_disk(failed.value)
    assert not is_of_disk(UserError("damaged"))


def test_no_command_shows_a_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Path.exists raises what it does not expect, such as ESTALE."""

    def fail(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/data/tokens.idx")

    monkeypatch.setattr(verify_table, "verify", fail)
    monkeypatch.setattr(sys, "argv", ["llama31", "verify", "/data/tokens"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, capsys.readouterr().err) == (2, "/data/tokens.idx: Stale file handle\n")
