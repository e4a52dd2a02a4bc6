"""Memory that two processes share: the bytes of a batch pass through it, in place of a pipe.

A pipe copies through pages of 4 KiB that the kernel allocates one by one.
"""

import mmap
import os
from collections.abc import Sequence

COUNT = 6  # batches that are read ahead, above all while the tokenizers are loaded


class Slots:
    """COUNT areas of `slot_bytes` each, of the file `descriptor`, which has no name and lasts while one has it open."""

    def __init__(self, descriptor: int, slot_bytes: int):
        self.descriptor = descriptor
        self.slot_bytes = slot_bytes
        self._memory = mmap.mmap(descriptor, COUNT * slot_bytes)

    @staticmethod
    def made(slot_bytes: int) -> "Slots":
        """Make slots; the other process gets the descriptor."""
        descriptor = os.memfd_create("slots")
        os.ftruncate(descriptor, COUNT * slot_bytes)
        return Slots(descriptor, slot_bytes)

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
        os.close(self.descriptor)
