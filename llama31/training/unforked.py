"""Keep a rank's large tensors out of a process that it forks, which does not read them.

After a fork both processes share all memory until one writes to it, and each page that training writes then is copied:
with CPU ranks that made a step three times slower, and took as much memory again as the model and its optimizer.
"""

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

_MADV_DONTFORK, _MADV_DOFORK = 10, 11  # madvise(2)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def unforked(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Leave the memory of CPU tensors out of processes forked within this context; they must not touch it.

    Only whole pages are left out, since the first and the last one may hold something else too.
    """
    page = mmap.PAGESIZE
    ranges = set()
    for tensor in tensors:
        if tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            first = -(-storage.data_ptr() // page) * page
            last = (storage.data_ptr() + storage.nbytes()) // page * page
            if last > first:
                ranges.add((first, last - first))
    for start, size in ranges:
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTFORK)
    try:
        yield
    finally:
        for start, size in ranges:
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DOFORK)
