"""Read a new file of a checkpoint back from disk, once: its SHA-256, and the CRC-32 of every tensor in it.

torch stores a tensor as a zip archive, with a CRC-32 that it computed from memory. The bytes that the disk returns are
checked against it while they are hashed, so the file is read once and never held in memory.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isal import isal_zlib

from llama31.common.errors import UserError
from llama31.common.files import HASH_BYTES

LOCAL_HEADER = 30  # bytes before the name in a zip archive's local file header
LOCAL_SIGNATURE = b"PK\x03\x04"
_NAME_LENGTH, _EXTRA_LENGTH = slice(26, 28), slice(28, 30)  # in that header


@dataclass
class _Member:
    """Bytes of a file with a CRC-32 to compare with."""

    start: int
    end: int
    expected: int
    name: str
    blob: int
    """Where its archive begins."""
    crc: int = 0


class _Window(io.RawIOBase):
    """A part of an open file, as a file of its own."""

    def __init__(self, file: io.RawIOBase, offset: int, length: int):
        self._file, self._offset, self._length, self._position = file, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        if origin + offset < 0:
            raise OSError("before the start of the archive")
        self._position = origin + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._position, 0)
        self._file.seek(self._offset + self._position)
        found = self._file.read(left if size < 0 else min(size, left)) or b""
        self._position += len(found)
        return found


def size_and_sha256(path: Path, blobs: Iterable[tuple[int, int]] = ()) -> tuple[int, str]:
    """Return bytes and SHA-256 of what the disk holds of a file, after checking the CRC-32 of the tensors in it.

    Args:
        path: A file that has been flushed to disk. It is dropped from the page cache first.
        blobs: Offset and length of each tensor or object in it, an archive of its own.

    Raises UserError if a tensor is not what was written, OSError if the file cannot be read.
    """
    digest, position = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        members = [member for offset, length in blobs for member in _members(path, file, offset, length)]
        members.sort(key=lambda member: member.start)
        first = 0  # of the members that do not end before `position`
        file.seek(0)
        while chunk := file.read(HASH_BYTES):
            digest.update(chunk)
            view, end = memoryview(chunk), position + len(chunk)
            while first < len(members) and members[first].end <= position:
                first += 1
            for member in members[first:]:
                if member.start >= end:
                    break
                part = view[max(member.start - position, 0) : member.end - position]
                member.crc = isal_zlib.crc32(part, member.crc)
            position = end
    for member in members:
        if member.end > position or member.crc != member.expected:
            raise _damaged(path, member.blob, member.name)
    return position, digest.hexdigest()


def _members(path: Path, file: io.RawIOBase, offset: int, length: int) -> list[_Member]:
    """Return the members of the archive at an offset, from its directory. Raises UserError if it is none."""
    window = _Window(file, offset, length)
    found = []
    try:
        with zipfile.ZipFile(window) as archive:
            for info in archive.infolist():
                window.seek(info.header_offset)
                header = window.read(LOCAL_HEADER)
                whole = len(header) == LOCAL_HEADER and info.compress_type == zipfile.ZIP_STORED
                if not whole or header[:4] != LOCAL_SIGNATURE:
                    raise zipfile.BadZipFile(f"the header of {info.filename}")
                lengths = (int.from_bytes(header[part], "little") for part in (_NAME_LENGTH, _EXTRA_LENGTH))
                start = offset + info.header_offset + LOCAL_HEADER + sum(lengths)
                found.append(_Member(start, start + info.file_size, info.CRC, info.filename, offset))
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise _damaged(path, offset, str(error)) from error
    return found


def _damaged(path: Path, offset: int, what: str) -> UserError:
    return UserError(f"{path}: what the disk gives back is not what was written to it: {what}, from byte {offset}")
