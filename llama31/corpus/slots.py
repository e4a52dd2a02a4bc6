"""Memory that two processes share: the bytes of a batch pass through it, in place of a pipe.

A pipe copies through pages of 4 KiB that the kernel allocates one by one.
"""

import mmap
from collections.abc import Sequence

COUNT = 10  # batches that are read ahead, above all while the encoder is loaded


class Slots:
    """COUNT areas of `slot_bytes` each, which a process that is forked later shares."""

    def __init__(self, slot_bytes: int):
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(-1, COUNT * slot_bytes)

    def put(self, slot: int, pieces: Sequence[bytes], separator: bytes) -> None:
        """Write pieces, with separators between them, to a slot, which must be large enough."""
        at = slot * self.slot_bytes
        for number, piece in enumerate(pieces):
            for part in (separator, piece) if number else (piece,):
                self._memory[at : at + len(part)] = part
                at += len(part)

    def take(self, slot: int, size: int) -> bytes:
        """Return a copy of the first `size` bytes of a slot."""
        start = slot * self.slot_bytes
        return self._memory[start : start + size]

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
