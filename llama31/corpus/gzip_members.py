"""Reading gzip files that may have several members, from the start of any of them."""

from typing import Protocol

from isal import isal_zlib

READ_BYTES = 2 << 20  # of the compressed file at a time
GZIP = 31  # window bits of zlib's interface that stand for a gzip header and trailer


class File(Protocol):
    """A file as it lies on disk."""

    def read(self, count: int) -> bytes: ...

    def tell(self) -> int: ...


class Stream(Protocol):
    """Bytes to read in order, and the place in the file where reading can begin anew."""

    def read(self, limit: int) -> bytes:
        """The next bytes, at most `limit`; empty only at the end."""

    def place(self, back: int) -> tuple[int, int]:
        """Where the byte lies that is `back` bytes before the next: (offset in the file, bytes to skip from there).

        `back` must not reach behind what the last `read` returned.
        """


class Plain:
    """A file that is not compressed."""

    def __init__(self, raw: File):
        self._raw = raw

    def read(self, limit: int) -> bytes:
        return self._raw.read(limit)

    def place(self, back: int) -> tuple[int, int]:
        return self._raw.tell() - back, 0


class Gunzip:
    """The contents of the gzip members from where `raw` stands.

    `read` raises EOFError where a member is cut short or there is none, and isal_zlib.error for what is damaged or not
    gzip.
    """

    def __init__(self, raw: File):
        self._raw = raw
        self._data = b""  # read from the file, and not decompressed yet
        self._start_member()

    def _start_member(self) -> None:
        self._member = isal_zlib.decompressobj(wbits=GZIP)
        self._offset = self._raw.tell() - len(self._data)
        self._inflated = 0

    def read(self, limit: int) -> bytes:
        while True:
            if self._member.eof:
                self._data = self._member.unused_data
                if not self._skip_padding():
                    return b""
                self._start_member()
            if not self._data and not self._fill():
                raise EOFError
            inflated: bytes = self._member.decompress(self._data, limit)
            self._data = self._member.unconsumed_tail
            self._inflated += len(inflated)
            if inflated:
                return inflated

    def _skip_padding(self) -> bool:
        """Go on to what follows a member and the zeros after it, as gzip itself does; gives whether anything does."""
        while not (data := self._data.lstrip(b"\0")):
            if not self._fill():
                return False
        self._data = data
        return True

    def _fill(self) -> bool:
        self._data = self._raw.read(READ_BYTES)
        return bool(self._data)

    def place(self, back: int) -> tuple[int, int]:
        return self._offset, self._inflated - back
