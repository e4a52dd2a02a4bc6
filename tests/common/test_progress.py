"""A bar with bytes, rate and time left on a terminal; nothing elsewhere."""

import io
import re
import sys
import threading

import pytest

from llama31.common import progress
from llama31.common.progress import Progress


class Terminal(io.StringIO):
    """A terminal to write to."""

    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("verify x", 4_000_000_000, done=1_000_000_000) as bar:
        bar._bar.start_t -= 2.0
        bar._bar.last_print_t -= 2.0
        bar.add(1_000_000_000)
        bar.reach(3_000_000_000, "3 of 4 files")
        bar.note("4 files")
        assert bar.done == 3_000_000_000
    *states, wiped = terminal.getvalue().split("\r")[1:]
    assert re.match(r"verify x:  25%.* 1\.00G/4\.00G ", states[0])
    assert any(re.search(r" 2\.00G/4\.00G \[00:02<00:0\d, [45]\d\dMB/s", state) for state in states), states
    assert ", 4 files]" in states[-2] and not wiped.strip(), "it is removed at the end"


@pytest.mark.parametrize("quiet", [True, False])
def test_nothing_is_shown_without_a_terminal_or_when_quiet(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", shown := Terminal() if quiet else io.StringIO())
    with Progress("verify x", 4, quiet=quiet) as bar:
        bar.add(2)
        bar.reach(4, "done")
        bar.note("done")
    assert shown.getvalue() == "" and bar.done == 4


def test_several_threads_add_to_one_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("hash", 80_000) as bar:
        threads = [threading.Thread(target=lambda: [bar.add(1) for _ in range(10_000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bar.done == bar._bar.n == 80_000


def test_the_figures_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 14.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = Progress("verify x", 0)
    bar.add(2_500_000_000)
    assert bar.figures() == "2.5 GB in 4.0 s (625 MB/s)"
