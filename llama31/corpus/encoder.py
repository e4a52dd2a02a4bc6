"""Texts -> token ids, fast where that is exact, by Hugging Face's own library where not.

The ids are those of NeMo's AutoTokenizer.text_to_ids: what tokenizer.json says, special tokens written in the text as
their own ids, nothing added before or after a text.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from llama31.corpus.tokenizer import named_tokens, tokenizer_file
from llama31.errors import UserError

Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]
"""The ids of all texts, one text after another, and the number of ids of each text."""

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
"""Texts on which tokenizers like to differ; a tokenizer's own special tokens are added to them."""


class Encoder:
    """A tokenizer that turns lists of texts into ids. Make it with `load`."""

    def __init__(self, name: str, reference: Tokenizer, eod: int | None, encode: Callable[[Sequence[str]], Encoded]):
        self.name = name
        """Library that computes the ids."""
        self.vocabulary: int = reference.get_vocab_size(with_added_tokens=True)
        """Entries of the vocabulary with the added tokens."""
        self.eod = eod
        """Id of the end-of-text token, where the tokenizer has one."""
        self.encode = encode


def load(tokenizer_dir: str | Path, sample: Sequence[str] = ()) -> Encoder:
    """Encoder for a Hugging Face tokenizer directory, gigatoken where its ids are right for `sample` and PROBES.

    A warning says when it is not, and that Hugging Face's tokenizers library does the work. Raises UserError where the
    directory holds no tokenizer that this library can read.
    """
    path = tokenizer_file(tokenizer_dir)
    try:
        reference = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: the tokenizers library cannot read it: {error}") from error
    reference.no_truncation()
    reference.no_padding()
    named = named_tokens(path.parent)
    unknown = [f"{name} {token!r}" for name, token in named.items() if reference.token_to_id(token) is None]
    if unknown:  # transformers, and so NeMo, would add them at the vocabulary's end
        raise UserError(f"{path}: has no {', '.join(unknown)}, which the files beside it name")
    eod = reference.token_to_id(named.get("eos_token", named.get("sep_token", "")))  # as NeMo's AutoTokenizer.eos_id

    def exact(texts: Sequence[str]) -> Encoded:
        rows = [row.ids for row in reference.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter((number for row in rows for number in row), np.uint32, int(lengths.sum())), lengths

    specials = [token.content for token in reference.get_added_tokens_decoder().values()]
    probes = [*PROBES, *(f"a{special} {special}\n{special}b" for special in specials), *sample]
    try:
        fast = _gigatoken(path)
        right = all(map(np.array_equal, fast(probes), exact(probes)))
        reason = "its ids differ on a sample"
    except Exception as error:  # noqa: BLE001 (whatever an unknown tokenizer makes it raise: the exact way is open)
        right, reason = False, str(error)
    if right:
        return Encoder("gigatoken", reference, eod, fast)
    logging.getLogger(__name__).warning(
        "%s: gigatoken is not exact for this tokenizer (%s); using Hugging Face's tokenizers, some 20 times slower",
        path,
        reason,
    )
    return Encoder("tokenizers", reference, eod, exact)


def _gigatoken(path: Path) -> Callable[[Sequence[str]], Encoded]:
    import awkward
    import gigatoken

    tokenizer = gigatoken.Tokenizer.from_json(path.read_bytes())

    def encode(texts: Sequence[str]) -> Encoded:
        rows = tokenizer.encode_batch(list(texts))
        return np.asarray(awkward.flatten(rows, axis=1)), np.asarray(awkward.num(rows))

    return encode
