"""Locks exclude other processes, end with their holder, and are skipped if the file system does not support them."""

import errno
import fcntl
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llama31.common import locks
from llama31.common.errors import UserError

HOLDER = """
import sys, time
from pathlib import Path
from llama31.common import locks
held = locks.lock_file(Path(sys.argv[1]), "refused")
print("locked", flush=True)
time.sleep(600)
"""


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock file."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "locked\n"
        try:
            yield holder
        finally:
            holder.kill()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)


def test_a_lock_file_excludes_another_process_until_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with other_process(path) as holder:
        assert locks.is_locked(path)
        with pytest.raises(UserError, match=r"^taken$"):
            locks.lock_file(path, "taken")
        holder.kill()
        holder.wait()
        assert locks.is_locked(path) is False
        with locks.lock_file(path, "taken"):
            assert locks.is_locked(path)
    assert path.exists()


@pytest.mark.parametrize("patience", [60, math.inf])
def test_a_lock_is_waited_for(patience: float, tmp_path: Path) -> None:
    held = locks.lock_file(tmp_path / "lock")
    timer = threading.Timer(0.5, held.close)
    timer.start()
    locks.lock_file(tmp_path / "lock", "taken", patience=patience).close()
    assert held.closed
    timer.join()


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.05)
    with locks.lock_file(tmp_path / "lock"):
        start = time.monotonic()
        with pytest.raises(UserError, match=r"^taken$"):
            locks.lock_file(tmp_path / "lock", "taken", patience=0.2)
        assert 0.2 <= time.monotonic() - start < 10


def test_a_temporary_lock_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.temporary_lock(path, "taken"):
        with pytest.raises(UserError, match=r"^taken$"), locks.temporary_lock(path, "taken"):
            pytest.fail("locked twice")
        assert path.exists(), "who was refused removes nothing"
    assert not path.exists()
    with pytest.raises(KeyError), locks.temporary_lock(path, "taken"):
        raise KeyError
    assert not path.exists()


def test_a_lock_file_that_its_holder_removed_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that opened the file before its holder removed it would lock a file that no other process can open."""
    path, flock, calls = tmp_path / "lock", fcntl.flock, 0

    def flock_after_removal(file: int, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            path.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with locks.lock_file(path, "taken", removed_after=True) as held:
        assert calls == 2
        assert os.path.samestat(os.fstat(held.fileno()), path.stat())


def test_one_run_in_a_directory(tmp_path: Path) -> None:
    with locks.only_run_in(tmp_path):
        with pytest.raises(UserError) as error, locks.only_run_in(tmp_path):
            pytest.fail("locked twice")
        assert error.value.lines == [f"{tmp_path}: another run is using it; wait until that ends"]
    with locks.only_run_in(tmp_path):
        assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="No such file"), locks.only_run_in(tmp_path / "missing"):
        pytest.fail("locked")


@pytest.mark.usefixtures("without_locks")
def test_without_locks_every_process_is_admitted(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locks.lock_file(path, "taken"), locks.lock_file(path, "taken"), locks.temporary_lock(path, "taken"):
        assert locks.is_locked(path) is None
    with locks.only_run_in(tmp_path), locks.only_run_in(tmp_path):
        pass


def test_it_is_unknown_whether_a_missing_file_is_locked(tmp_path: Path) -> None:
    assert locks.is_locked(tmp_path / "lock") is None
