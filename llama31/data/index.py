"""Where the training index lies, and how it comes there whole.

Megatron writes an index file by file under the final names, and takes what it finds there for whole. Here it is built
in a directory of its own, which gets the index's name when all is written: a builder that is killed leaves nothing
that a run would read, and of several that build the same index at once the first to end wins.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llama31.corpus.files import PARTIAL, failures_named, publish
from llama31.errors import UserError


def location(root: str | Path, prefixes: Iterable[str], seq_length: int, seed: int) -> Path:
    """Directory of the index of these token files, as they are now, for sequences of a length in the seed's order.

    It changes with all that Megatron makes the index of, and with the files' sizes and times of change: Megatron
    itself would meet an old index after data was written anew.
    """
    digest = hashlib.sha256(f"{seq_length} {seed}\n".encode())
    for prefix in prefixes:
        for extension in (".bin", ".idx"):
            file = f"{prefix}{extension}"
            with failures_named(Path(file)):
                status = Path(file).stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return Path(root) / digest.hexdigest()[:16]


@contextmanager
def building(directory: Path) -> Iterator[Path]:
    """A directory to build the index in, which becomes `directory` when the block ends without an exception.

    Otherwise it vanishes. If another process was first, its equal index stays. Raises UserError where nothing can be
    written.
    """
    partial = directory.with_name(f"{directory.name}{PARTIAL}-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        try:
            publish(partial, directory)
        except OSError:
            if not directory.is_dir():
                raise
    except Exception as error:
        cause = error.__cause__ or error  # Megatron wraps an OSError in an Exception
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{directory.parent}: the training index cannot be written: {cause.strerror or cause}; "
            "TMP_NPY_INDEX names another directory"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
