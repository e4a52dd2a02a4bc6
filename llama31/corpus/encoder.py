"""Encoder from texts to token ids by Hugging Face's library, and what the fast one has in common with it.

The ids are those of NeMo's AutoTokenizer.text_to_ids: by tokenizer.json, with special tokens in a text encoded as
their own ids, and nothing added before or after a text.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from llama31.common.errors import UserError
from llama31.common.parallel import cores
from llama31.corpus.exactness import unproven_reason
from llama31.corpus.texts import Texts, too_long
from llama31.data.token_file import TokenType
from llama31.data.tokenizer import contradictions, tokenizer_file, vocabulary_size

Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]
"""The ids of all texts, concatenated, and the number of ids of each text."""

NO_IDS: Encoded = (np.empty(0, np.uint32), np.empty(0, np.int64))


@dataclass(frozen=True)
class Limits:
    """Limits of a tokenizer's ids."""

    path: Path
    """Its tokenizer.json."""
    ids: int
    """Largest id + 1."""
    vocabulary: int
    """Size of the vocabulary with added tokens; Megatron chooses the type of the ids by it."""

    @property
    def token_type(self) -> TokenType:
        """Type of the ids in a token file."""
        return TokenType.for_vocabulary(self.vocabulary)

    def check_id(self, number: int) -> None:
        """Raise UserError if an id exceeds the vocabulary or the range of the token file's type."""
        limit = min(self.ids, self.token_type.limit)
        if number >= limit:
            raise UserError(f"{self.path}: gives id {number}, beyond its vocabulary of {limit}")


@dataclass(frozen=True)
class ExactIds:
    """Hugging Face's ids of some of a batch's texts."""

    numbers: Sequence[int] = ()
    """Indices of the texts."""
    encoded: Encoded = NO_IDS


@dataclass(frozen=True)
class Known:
    """What Hugging Face's library says of a batch."""

    ambiguous: ExactIds = ExactIds()
    """Texts that the fast encoder must not encode."""
    sample: ExactIds = ExactIds()
    """Texts whose ids the fast encoder's must equal."""


NOTHING_KNOWN = Known()


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


class Encoder(Protocol):
    """Encoder of lists of texts."""

    name: str
    """Library that computes the ids."""

    @property
    def refusal(self) -> Callable[[str], str]:
        """A function that returns why a text needs more memory than the encoder may use; empty if it does not."""

    @property
    def limits(self) -> Limits:
        """Limits of the ids."""

    def encode(self, texts: Texts, known: Known) -> Encoded:
        """Return the ids of the texts. `known`: what the exact library says of some of them."""


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

    @property
    def limits(self) -> Limits:
        return Limits(self.path, self.ids, self.vocabulary)

    def encode(self, texts: Texts, known: Known = NOTHING_KNOWN) -> Encoded:
        return self.encode_list(texts.all())

    def encode_list(self, texts: list[str]) -> Encoded:
        """Return the ids of a list of texts."""
        rows = [row.ids for row in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter((number for row in rows for number in row), np.uint32, int(lengths.sum())), lengths

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


def use_threads(threads: int) -> None:
    """Make both libraries encode with `threads` threads. Has no effect after a first parallel encoding."""
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def threads() -> int:
    """Return the number of threads that the libraries encode with.

    With two, gigatoken 0.10.0 took as long as with one and 1.4 times the CPU time, which other stages need.
    """
    return int(os.environ.get("RAYON_NUM_THREADS") or cores())
