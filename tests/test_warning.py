"""The file by which a job's ranks are warned that time runs out."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama31 import warning


@pytest.fixture
def held() -> Iterator[set[signal.Signals]]:
    """SIGUSR1, which waits until it is asked for."""
    signals = {signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    yield signals
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


@pytest.mark.parametrize("written", ["before", "after"])
def test_a_warning_is_a_signal_to_the_main_thread(written: str, held: set[signal.Signals], tmp_path: Path) -> None:
    file = tmp_path / warning.FILE
    file.write_text("1" if written == "before" else "")
    warning.watch(tmp_path)
    if written == "after":
        assert signal.sigtimedwait(held, 0) is None
        file.write_text("1")
    assert signal.sigtimedwait(held, 60), "no signal came"
    assert signal.sigtimedwait(held, 0) is None, "it comes once"


def test_where_no_file_is_nothing_is_watched(tmp_path: Path) -> None:
    before = threading.active_count()
    warning.watch(tmp_path)
    assert threading.active_count() == before


def test_a_file_that_cannot_be_read_for_a_while(
    held: set[signal.Signals], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a file server that restarts."""
    file = tmp_path / warning.FILE
    file.touch()
    monkeypatch.setattr(warning, "INTERVAL", 0.01)
    warning.watch(tmp_path)
    file.unlink()
    assert signal.sigtimedwait(held, 0.1) is None
    file.write_text("1")
    assert signal.sigtimedwait(held, 60), "no signal came"
