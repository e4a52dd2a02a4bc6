"""The interface of a source of files to download."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL

PIECES = ".pieces"
"""Suffix of the journal of a file's download."""
CHECKED = ".downloaded.json"
"""Name of the record of verified files."""


class Interrupted(Exception):
    """Raised if a request failed but a retry may succeed; the message is the reason."""

    def __init__(self, reason: str, retry_after: float = 0):
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds to wait before the retry, as the server asks."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    path: str
    """Relative to the downloaded directory."""
    md5: str
    """Hexadecimal; empty if it is not published."""


@dataclass(frozen=True)
class Version:
    """The current version of a file on the server."""

    size: int
    """Bytes."""
    tag: str = ""
    """Identifies the contents: an ETag or a date; empty if the server sends neither."""
    has_ranges: bool = True
    """Whether the server supports range requests."""


class Remote(Protocol):
    """A directory of published files. Each method makes one attempt, and raises Interrupted if a retry may succeed."""

    def files(self) -> list[RemoteFile]:
        """Return all files, those of subdirectories too. Raises UserError if there are none or access is refused."""

    def version(self, file: RemoteFile) -> Version:
        """Return the current version of a file. Raises UserError if there is none."""

    def read(self, file: RemoteFile, version: Version, offset: int, count: int) -> Iterator[bytes]:
        """Yield `count` bytes from `offset` on. Raises UserError if the file is no longer this version."""


def validated(source: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return files sorted by path. Raises UserError if there are none, or if a path is unsafe, repeated or reserved."""
    found = {}
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in file.path:
            raise UserError(f"{source}: {file.path!r} is outside the download directory; nothing was written")
        if path.name.endswith((PARTIAL, PIECES)) or file.path == CHECKED:
            raise UserError(f"{source}: {file.path!r}: a name reserved for the download's own files")
        if str(path) in found:
            raise UserError(f"{source}: lists {file.path!r} twice")
        found[str(path)] = RemoteFile(str(path), file.md5)
    if not found:
        raise UserError(f"{source}: no files")
    for path in map(PurePosixPath, found):
        for parent in path.parents:
            if str(parent) in found:
                raise UserError(f"{source}: lists {str(parent)!r} as a file and as a directory")
    return [found[name] for name in sorted(found)]
