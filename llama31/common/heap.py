"""Memory that a process has freed and will need again."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
KEPT = (1 << 31) - 1  # bytes; the largest value


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, also in processes that are forked later, rather than return it to the kernel.

    A tensor of many megabytes otherwise gets new pages each time, and the kernel takes longer to supply and clear them
    than it takes to read the tensor. Does nothing without glibc.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT)
