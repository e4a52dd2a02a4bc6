"""Encoders from texts to token ids: a fast one where it is exact (see `exactness`), else Hugging Face's library.

The ids are those of NeMo's AutoTokenizer.text_to_ids: by tokenizer.json, with special tokens in a text encoded as
their own ids, and nothing added before or after a text.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from llama31.common.errors import UserError
from llama31.common.parallel import cores
from llama31.corpus.exactness import unproven_reason
from llama31.corpus.texts import SEPARATOR, Texts, too_long, too_long_and_ambiguous
from llama31.data.token_file import TokenType
from llama31.data.tokenizer import contradictions, tokenizer_file, vocabulary_size

Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]
"""The ids of all texts, concatenated, and the number of ids of each text."""

CHECK_EVERY = 4096  # one document in this many is compared with Hugging Face's ids; costs about 1.5% of the time
CHECK_BYTES = 1 << 16  # longer documents are not compared: the comparison needs 200 bytes for each character
CACHE_BYTES = 256 << 20  # gigatoken caches each word; it is reloaded when its cache is larger than this

PROBES = (
    "",
    " ",
    "It's 1234567 o'clock, we'll see.",
    "two  spaces,\ttab,\r\nCRLF,\n\n\nnew lines \n and a trailing space ",
    "\x00NUL and \x7f control \ufeffmarks",
    "na\u00efve nai\u0308ve \u00c5ngstr\u00f6m \u03b1\u03b2\u03b3",
    "\u4e2d\u6587\u3001\u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\U0001f469\u200d\U0001f4bb\U0001f1e8\U0001f1ed \u00a0\u2003\u3000 \u2028end",
)
"""Texts on which tokenizers often differ; texts with the tokenizer's special tokens are added to them."""


class Inexact(Exception):
    """Raised if the fast encoder fails, or gives other ids than Hugging Face's library; the message says which."""


class Encoder(Protocol):
    """Encoder of lists of texts."""

    name: str
    """Library that computes the ids."""

    @property
    def refusal(self) -> Callable[[str], str]:
        """A function that returns why a text needs more memory than the encoder may use; empty if it does not."""

    def encode(self, texts: Texts) -> Encoded:
        """Return the ids of the texts."""


class ExactEncoder:
    """Encoder by Hugging Face's tokenizers library, with the properties of its tokenizer."""

    name = "tokenizers"
    refusal = staticmethod(too_long)

    def __init__(self, tokenizer_dir: str | Path):
        """Raises UserError if the directory has no tokenizer, or one that the library reads unlike transformers."""
        self.path = tokenizer_file(tokenizer_dir)
        self.ids = vocabulary_size(tokenizer_dir)
        """Largest id + 1."""
        if found := contradictions(tokenizer_dir):
            raise UserError(found)
        try:
            self._tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{self.path}: the tokenizers library cannot read it: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        """Size of the vocabulary with added tokens; Megatron chooses the type of the ids by it."""

    def encode(self, texts: Texts) -> Encoded:
        return self.encode_list(texts.all())

    def encode_list(self, texts: list[str]) -> Encoded:
        """Return the ids of a list of texts."""
        rows = [row.ids for row in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter((number for row in rows for number in row), np.uint32, int(lengths.sum())), lengths

    def check_id(self, number: int) -> None:
        """Raise UserError if an id exceeds the vocabulary or the range of the token file's type."""
        limit = min(self.ids, TokenType.for_vocabulary(self.vocabulary).limit)
        if number >= limit:
            raise UserError(f"{self.path}: gives id {number}, beyond its vocabulary of {limit}")

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def unproven_reason(self) -> str:
        """Return why another library may give other ids; empty if it is proven to give the same."""
        return unproven_reason(self._tokenizer)

    def probes(self) -> list[str]:
        """Return PROBES and texts with each of the tokenizer's special tokens."""
        specials = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        return [*PROBES, *(f"a{special} {special}\n{special}b" for special in specials)]


class FastEncoder:
    """Encoder by gigatoken, periodically compared with Hugging Face's library. Raises Inexact if it fails or differs.

    Texts with code points that the two may classify differently are encoded by Hugging Face's library.
    """

    name = "gigatoken"
    refusal = staticmethod(too_long_and_ambiguous)

    def __init__(self, exact: ExactEncoder, sample: Sequence[str] = ()):
        """Compare the two libraries on `sample` and on the tokenizer's probes."""
        if reason := exact.unproven_reason():
            raise Inexact(reason)
        self._exact = exact
        self._documents = 0
        self._load()
        probes = Texts.of([*exact.probes(), *sample])
        self._compare(probes, self._encode(probes), range(len(probes)))

    def encode(self, texts: Texts) -> Encoded:
        if _resident_bytes() > self._base + CACHE_BYTES:
            self._load()
        encoded = self._encode(texts)
        due = range(-self._documents % CHECK_EVERY, len(texts), CHECK_EVERY)
        self._compare(texts, encoded, [number for number in due if texts.lengths[number] <= CHECK_BYTES])
        self._documents += len(texts)
        return encoded

    def _load(self) -> None:
        self._tokenizer: Any = None  # frees its memory before the next one is loaded
        with _failures_as_inexact():
            import gigatoken

            self._tokenizer = gigatoken.Tokenizer.from_json(self._exact.path.read_bytes())
        self._base = _resident_bytes()

    def _encode(self, texts: Texts) -> Encoded:
        with _failures_as_inexact():
            import awkward
            from gigatoken.gigatoken_rs import BytesSource

            rows = self._tokenizer.encode_batch(BytesSource(texts.joined, SEPARATOR), parallel=_threads() > 2)
            encoded = np.asarray(awkward.flatten(rows, axis=1)), np.asarray(awkward.num(rows))
        numbers = texts.ambiguous()
        return _replaced(encoded, numbers, self._exact.encode_list(texts.at(numbers))) if numbers else encoded

    def _compare(self, texts: Texts, encoded: Encoded, numbers: Sequence[int]) -> None:
        ids, lengths = encoded
        if len(lengths) != len(texts) or lengths.sum() != len(ids):
            raise Inexact("it dropped ids")
        if not numbers:
            return
        ends = np.cumsum(lengths)
        expected, expected_lengths = self._exact.encode_list(texts.at(numbers))
        found = np.concatenate([ids[ends[number] - lengths[number] : ends[number]] for number in numbers])
        if not (np.array_equal(lengths[list(numbers)], expected_lengths) and np.array_equal(found, expected)):
            raise Inexact("its ids differ on a sample")


def _replaced(encoded: Encoded, numbers: Sequence[int], others: Encoded) -> Encoded:
    """Replace the ids of the texts with these indices by the ids of `others`."""
    (ids, lengths), (other_ids, other_lengths) = encoded, others
    rows = np.split(ids, np.cumsum(lengths)[:-1])
    lengths = lengths.copy()
    lengths[list(numbers)] = other_lengths
    for number, row in zip(numbers, np.split(other_ids, np.cumsum(other_lengths)[:-1]), strict=True):
        rows[number] = row
    return np.concatenate(rows), lengths


@contextmanager
def _failures_as_inexact() -> Iterator[None]:
    """Turn any exception of gigatoken into Inexact; a panic in its Rust code is a BaseException, not an Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise Inexact(f"{type(error).__name__}: {error}") from error


def use_threads(threads: int) -> None:
    """Make both libraries encode with `threads` threads. Has no effect after a first parallel encoding."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def _threads() -> int:
    """Return the number of threads that the libraries encode with.

    With two, gigatoken 0.10.0 took as long as with one and 1.4 times the CPU time, which other stages need.
    """
    return int(os.environ.get("RAYON_NUM_THREADS") or cores())


def _resident_bytes() -> int:
    """Return the resident memory of this process; 0 without Linux's /proc, which leaves the cache unbounded."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
