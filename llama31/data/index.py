"""Which training index belongs to which data."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def identity(prefixes: Iterable[str | Path]) -> str:
    """Name for the state that these token files are in: it changes with their paths, sizes and times of change.

    Megatron names an index after the configuration alone, so data that was written anew would meet an old index.
    """
    digest = hashlib.sha256()
    for prefix in prefixes:
        for extension in (".bin", ".idx"):
            file = Path(f"{prefix}{extension}").resolve()
            status = file.stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
