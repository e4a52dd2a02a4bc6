"""Arrays in files: mapped into memory, or read where the file system refuses that, as some of FUSE and WekaFS do.

Both give the same numbers. Reading needs a call to the file server for each slice; what is read whole needs its size in
the memory of each rank.
"""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from llama31.common.errors import UserError
from llama31.common.files import failures_named

REFUSALS = (errno.ENODEV, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""Errors of mmap that mean a file cannot be mapped."""


class ReadArray:
    """A one-dimensional array in a file; slices are read when they are asked for."""

    def __init__(self, path: Path, dtype: Any):
        self._path, self._dtype = path, np.dtype(dtype)
        with failures_named(path):
            self._length = path.stat().st_size // self._dtype.itemsize

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self._length)
        return read(self._path, self._dtype, max(0, stop - start), start * self._dtype.itemsize)


def read(path: Path, dtype: Any, count: int, offset: int) -> np.ndarray:
    """Read `count` numbers from a byte of a file on. Raises UserError, naming the file, if it ends before or fails."""
    array = np.empty(count, dtype)
    view, done = memoryview(array).cast("B") if count else memoryview(b""), 0
    with failures_named(path), open(path, "rb", buffering=0) as file:
        while done < len(view):
            size = os.preadv(file.fileno(), [view[done:]], offset + done)
            if not size:
                raise UserError(f"{path}: ends within {count:,} numbers at byte {offset:,}")
            done += size
    return array


def one_dimensional(path: Path, dtype: Any) -> "np.ndarray | ReadArray":
    """Return an array that fills a file, read-only."""
    try:
        return np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return ReadArray(path, dtype)


def load(path: Path) -> np.ndarray:
    """Return the array in a .npy file, read-only."""
    try:
        return np.load(path, mmap_mode="r")
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return np.load(path)
