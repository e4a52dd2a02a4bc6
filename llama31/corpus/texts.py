"""Texts to tokenise, in the form that encoders take: one buffer of UTF-8."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import category

import numpy as np
import numpy.typing as npt

LONGEST_TEXT = 4 << 20  # characters; Hugging Face's library needs at least 150 bytes of memory for each
SEPARATOR = b"\xff"
"""A byte that UTF-8 never contains."""


@dataclass(frozen=True)
class Texts:
    """Texts in order, without empty ones: these give no ids."""

    joined: bytes
    """The texts in UTF-8, with SEPARATOR between them."""
    lengths: npt.NDArray[np.int64]
    """Bytes of each text, without separators."""
    unassigned: frozenset[str] = frozenset()
    """The code points in the texts, and perhaps others, that Python's Unicode does not assign."""

    @staticmethod
    def of(texts: Sequence[str]) -> "Texts":
        """Join texts; drop empty ones."""
        texts = texts if all(texts) else [text for text in texts if text]
        encoded = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        others = [data for data, text in zip(encoded, texts, strict=True) if not text.isascii()]  # it is looked up
        return Texts(SEPARATOR.join(encoded), lengths, _unassigned_in(b"".join(others)) if others else frozenset())

    @staticmethod
    def joint(parts: Sequence["Texts"], without_bytes: bool = False) -> "Texts":
        """Return the texts of all parts, in order. `without_bytes`: leave `joined` empty; the caller has the bytes."""
        joined = b"" if without_bytes else SEPARATOR.join([part.joined for part in parts if len(part)])
        lengths = np.concatenate([part.lengths for part in parts])
        return Texts(joined, lengths, frozenset().union(*(part.unassigned for part in parts)))

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Offset of each text in `joined`."""
        return np.cumsum(self.lengths + 1) - self.lengths - 1

    def at(self, numbers: Iterable[int]) -> list[str]:
        """Return the texts with these indices."""
        starts = self.starts
        return [self.joined[starts[number] : starts[number] + self.lengths[number]].decode() for number in numbers]

    def all(self) -> list[str]:
        """Return all texts."""
        return [text.decode() for text in self.joined.split(SEPARATOR)] if len(self) else []

    def ambiguous(self) -> list[int]:
        """Return the indices of texts with a code point that Python's Unicode does not assign."""
        if not self.unassigned:
            return []
        return [number for number, text in enumerate(self.all()) if not self.unassigned.isdisjoint(text)]


_assigned = np.zeros(0x110000, bool)
_assigned[:128] = True


def unassigned_codes(codes: npt.NDArray[np.uint32]) -> frozenset[str]:
    """Return the code points among `codes` that Python's Unicode does not assign."""
    found = set()
    for code in np.unique(codes[~_assigned[codes]]).tolist():
        if category(chr(code)) == "Cn":
            found.add(chr(code))
        else:
            _assigned[code] = True  # each is looked up once
    return frozenset(found)


def _unassigned_in(encoded: bytes) -> frozenset[str]:
    """Return the code points in UTF-8 that Python's Unicode does not assign.

    All bytes of a code point beyond ASCII are 128 or more, and all others less.
    """
    numbers = np.frombuffer(encoded, np.int8)
    others = numbers[numbers < 0].tobytes()
    return unassigned_codes(np.frombuffer(others.decode().encode("utf-32-le"), "<u4"))


def unassigned(texts: Iterable[str]) -> frozenset[str]:
    """Return the code points in texts that Python's Unicode does not assign. ASCII texts cost nothing."""
    others = "".join([text for text in texts if not text.isascii()])
    return unassigned_codes(np.frombuffer(others.encode("utf-32-le"), "<u4"))


def too_long(text: str) -> str:
    """Return why Hugging Face's library cannot take a text; empty if it can."""
    if len(text) <= LONGEST_TEXT:
        return ""
    limit = f"the tokenizers library takes at most {LONGEST_TEXT:,}, to bound its memory"
    return f"a text of {len(text):,} characters; {limit}"


def too_long_and_ambiguous(text: str) -> str:
    """Return why Hugging Face's library, which must take a text with unassigned code points, cannot."""
    return (reason := too_long(text)) and (reason if unassigned([text]) else "")
