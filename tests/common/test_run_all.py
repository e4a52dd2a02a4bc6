"""Items are processed in parallel; failures are collected, and faults cancel items that have not started."""

import threading

import pytest

from llama31.common.errors import UserError
from llama31.common.parallel import cores, run_all


def test_all_items_are_done_several_at_a_time() -> None:
    together, done = threading.Barrier(3, timeout=30), []

    def work(item: int) -> None:
        together.wait()
        done.append(item)

    run_all(work, range(6), 3)
    assert sorted(done) == list(range(6))
    assert cores() >= 1


def test_a_failure_does_not_keep_the_others_from_being_done() -> None:
    done = []

    def work(item: int) -> None:
        if item % 2:
            raise UserError([f"{item}: odd", "the same line"])
        done.append(item)

    with pytest.raises(UserError) as error:
        run_all(work, range(4), 2)
    assert error.value.lines == ["1: odd", "3: odd", "the same line"]
    assert done == [0, 2]


def test_nothing_starts_after_a_fault() -> None:
    stop, done = threading.Event(), []

    def work(item: int) -> None:
        if item == 0:
            raise ZeroDivisionError
        stop.wait(30)
        done.append(item)

    with pytest.raises(ZeroDivisionError):
        run_all(work, range(100), 2, stop)
    assert stop.is_set() and len(done) <= 2, "running items finish; the failure may have let one more start"


def test_nothing_starts_once_stop_is_set() -> None:
    stop, done = threading.Event(), []
    stop.set()
    run_all(done.append, range(4), 2, stop)
    assert done == []
