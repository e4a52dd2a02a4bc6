"""Stages of work that run at the same time, each in a thread of its own, in order and with bounded memory."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


def prefetched(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield `items`, with a thread that computes the next one while the caller uses the current one.

    Closing it closes a generator that it was given.
    """
    end = object()
    try:
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(next, items, end)
            while (item := following.result()) is not end:
                following = pool.submit(next, items, end)
                yield item  # type: ignore[misc]
    finally:
        if isinstance(items, Generator):
            items.close()


class InOrder(Generic[T]):
    """A thread that does `work` on each item put, one after the other, while the caller computes the next one.

    A context manager; its exit waits for the item in work.
    """

    def __init__(self, work: Callable[[T], None]):
        self._work = work
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def put(self, item: T) -> None:
        """Wait until the former item is done, and start on this one. Raises what the work on the former one raised."""
        self.wait()
        self._pending = self._pool.submit(self._work, item)

    def wait(self) -> None:
        """Wait until all items are done. Raises what the work on the last one raised."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def __enter__(self) -> "InOrder[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown()
