"""The outcome of a run, written where little works."""

import errno
import os
from pathlib import Path

import pytest

from llama31.run_dir import record
from llama31.run_dir.events import Outcome

REACHED = Outcome("success", "target reached", 0, 768, 24_576)


def test_it_is_written_where_the_reserve_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record.reserve_outcome(tmp_path)
    remove = Path.unlink

    def fail(path: Path, missing_ok: bool = False) -> None:
        if path.name == record.RESERVE:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        remove(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", fail)
    assert record.store_outcome(tmp_path, REACHED) == REACHED
    assert record.load_outcome(tmp_path) == REACHED


def test_the_first_one_stays(tmp_path: Path) -> None:
    record.store_outcome(tmp_path, REACHED)
    assert record.store_outcome(tmp_path, Outcome("aborted", "another rank ended", 1, 3, 24)) == REACHED
    assert record.load_outcome(tmp_path) == REACHED
