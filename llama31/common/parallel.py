"""Independent pieces of work, several at a time; one that fails does not keep the others from being done."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

from llama31.common.errors import UserError

T = TypeVar("T")


def run_all(work: Callable[[T], object], items: Iterable[T], jobs: int, stop: Event | None = None) -> None:
    """Call `work` on each item, `jobs` at a time. Raises UserError with the lines of all that failed with one.

    `stop` is set after Ctrl-C or a fault, for work that looks at it; nothing more is begun once it is set.
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
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or a fault nothing new is begun
    if lines:
        raise UserError(sorted(lines))
