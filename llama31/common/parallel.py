"""Run independent tasks in threads; a task that fails does not stop the others."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

from llama31.common.errors import UserError

T = TypeVar("T")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_all(work: Callable[[T], object], items: Iterable[T], jobs: int, stop: Event | None = None) -> None:
    """Call `work` on each item, on `jobs` items at a time.

    Raises UserError with the lines of all calls that raised one. Any other exception sets `stop`, which `work` may
    poll; once it is set, no further call starts.
    """
    lines: set[str] = set()
    stop = stop or Event()

    def do(item: T) -> None:
        if not stop.is_set():
            work(item)

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(do, item) for item in items]):
            try:
                future.result()
            except UserError as error:
                lines.update(error.lines)
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or a bug, no further call starts
    if lines:
        raise UserError(sorted(lines))
