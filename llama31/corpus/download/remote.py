"""What a download needs of the place that the files come from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from llama31.common.errors import UserError
from llama31.common.files import PARTIAL

PIECES = ".pieces"
"""Appended to a file's name: the journal of its download."""
CHECKED = ".downloaded.json"
"""Name of the record of what was checked."""


class Interrupted(Exception):
    """A request failed in a way that another attempt may cure; the message says how."""

    def __init__(self, reason: str, retry_after: float = 0):
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    path: str
    """Relative to the directory that is downloaded."""
    md5: str
    """Hexadecimal; empty if it is not published."""


@dataclass(frozen=True)
class Version:
    """What the server has under a file's name at present."""

    size: int
    """Bytes."""
    tag: str = ""
    """Changes with the content: an ETag or a date; empty if the server sends neither."""
    has_ranges: bool = True
    """Whether the server sends a part of the file on request."""


class Remote(Protocol):
    """A directory of published files. Each method makes one attempt, and raises Interrupted if another may succeed."""

    def files(self) -> list[RemoteFile]:
        """Return all files, those of subdirectories too. Raises UserError if there are none or access is refused."""

    def version(self, file: RemoteFile) -> Version:
        """Return what the server has of a file. Raises UserError if it has none."""

    def read(self, file: RemoteFile, version: Version, offset: int, count: int) -> Iterator[bytes]:
        """Yield `count` bytes from `offset` on. Raises UserError if the file is no longer this version."""


def checked(source: str, files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Sort files by path. Raises UserError if there are none, or a path is unsafe, repeated or a temporary file's."""
    found = {}
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in file.path:
            raise UserError(f"{source}: {file.path!r} is outside of the directory to download to; nothing was written")
        if path.name.endswith((PARTIAL, PIECES)) or file.path == CHECKED:
            raise UserError(f"{source}: {file.path!r}: a download keeps its own files under such names")
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
