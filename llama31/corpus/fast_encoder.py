"""Encoder by gigatoken, used where it is exact: see `exactness`. What it is compared with comes from `reference`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from llama31.corpus.encoder import NOTHING_KNOWN, Encoded, ExactIds, Known, Limits, threads
from llama31.corpus.reference import Facts
from llama31.corpus.texts import SEPARATOR, Texts, too_long_and_ambiguous
from llama31.data.tokenizer import tokenizer_file

CACHE_BYTES = 256 << 20  # gigatoken caches each word; it is reloaded when its cache is larger than this


class Inexact(Exception):
    """Raised if the fast encoder fails, or gives other ids than Hugging Face's library; the message says which."""


class FastEncoder:
    """Encoder by gigatoken, periodically compared with Hugging Face's library. Raises Inexact if it fails or differs.

    Texts with code points that the two may classify differently get the ids of Hugging Face's library.
    """

    name = "gigatoken"
    refusal = staticmethod(too_long_and_ambiguous)

    def __init__(self, tokenizer_dir: str | Path, facts: Callable[[], Facts]):
        """Load gigatoken, then compare it with `facts()`, which another process may determine in the meantime.

        Raises UserError as `facts` does, and if there is no tokenizer.
        """
        self._path = tokenizer_file(tokenizer_dir)
        failure: Inexact | None = None
        try:
            self._load()
        except Inexact as error:
            failure = error
        self.facts = facts()
        if self.facts.unproven_reason:
            raise Inexact(self.facts.unproven_reason)
        if failure:
            raise failure
        probes = Texts.of(self.facts.probes)
        _compare(self._encode(probes), len(probes), ExactIds(range(len(probes)), self.facts.expected))

    @property
    def limits(self) -> Limits:
        return self.facts.limits

    def encode(self, texts: Texts, known: Known = NOTHING_KNOWN) -> Encoded:
        if _resident_bytes() > self._base + CACHE_BYTES:
            self._load()
        encoded = self._encode(texts)
        if known.ambiguous.numbers:
            encoded = _replaced(encoded, known.ambiguous)
        _compare(encoded, len(texts), known.sample)
        return encoded

    def _load(self) -> None:
        self._tokenizer: Any = None  # frees its memory before the next one is loaded
        with _failures_as_inexact():
            import gigatoken

            self._tokenizer = gigatoken.Tokenizer.from_json(self._path.read_bytes())
        self._base = _resident_bytes()

    def _encode(self, texts: Texts) -> Encoded:
        with _failures_as_inexact(), _numpy_for_awkward():
            from gigatoken.gigatoken_rs import BytesSource

            ids, lengths = self._tokenizer.encode_batch(BytesSource(texts.joined, SEPARATOR), parallel=threads() > 2)
            return np.asarray(ids, np.uint32), np.asarray(lengths, np.int64)


def _compare(encoded: Encoded, texts: int, sample: ExactIds) -> None:
    """Raise Inexact if the ids of some of the texts are not those in `sample`, or if there are not as many texts."""
    ids, lengths = encoded
    if len(lengths) != texts or lengths.sum() != len(ids):
        raise Inexact("it dropped ids")
    if not sample.numbers:
        return
    ends = np.cumsum(lengths)
    expected, expected_lengths = sample.encoded
    found = np.concatenate([ids[ends[number] - lengths[number] : ends[number]] for number in sample.numbers])
    if not (np.array_equal(lengths[list(sample.numbers)], expected_lengths) and np.array_equal(found, expected)):
        raise Inexact("its ids differ on a sample")


def _replaced(encoded: Encoded, by: ExactIds) -> Encoded:
    """Replace the ids of some texts."""
    (ids, lengths), (other_ids, other_lengths) = encoded, by.encoded
    if len(lengths) <= max(by.numbers):
        raise Inexact("it dropped ids")
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    lengths = lengths.copy()
    lengths[list(by.numbers)] = other_lengths
    for number, row in zip(by.numbers, np.split(other_ids, np.cumsum(other_lengths)[:-1]), strict=True):
        rows[number] = row
    return np.concatenate(rows), lengths


@contextmanager
def _numpy_for_awkward() -> Iterator[None]:
    """Have gigatoken return its two arrays, ids and lengths, in place of an array of the package awkward.

    gigatoken passes them to awkward.unflatten. Importing awkward takes as long as tokenising 40 MB.
    """
    stand_in = ModuleType("awkward")
    stand_in.unflatten = lambda ids, lengths: (ids, lengths)  # type: ignore[attr-defined]
    real = sys.modules.get("awkward")
    sys.modules["awkward"] = stand_in
    try:
        yield
    finally:
        if real:
            sys.modules["awkward"] = real
        else:
            del sys.modules["awkward"]


@contextmanager
def _failures_as_inexact() -> Iterator[None]:
    """Turn any exception of gigatoken into Inexact; a panic in its Rust code is a BaseException, not an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise Inexact(f"{type(error).__name__}: {error}") from error


def _resident_bytes() -> int:
    """Return the resident memory of this process; 0 without Linux's /proc, which leaves the cache unbounded."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
