"""Memory that a process shares with those it forks."""

import mmap
import os

GRANULE = 64  # bytes; tensors start at multiples of it


class SharedMemory:
    """Anonymous memory that can grow. A process that was forked before sees it all, after its own `resize`.

    It is no file in /dev/shm, which containers limit to 64 MB by default.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("checkpoint")
        self.view: mmap.mmap | None = None
        """None until the first `resize`."""

    def resize(self, size: int) -> None:
        """Make at least `size` bytes available. Contents stay."""
        if os.fstat(self._file).st_size < size:
            os.ftruncate(self._file, size)
        if size and (self.view is None or len(self.view) < size):
            self.view = mmap.mmap(self._file, size)  # the former one is unmapped with the last tensor in it
