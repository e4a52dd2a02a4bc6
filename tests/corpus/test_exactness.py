"""Which texts gigatoken may encode: over all code points, its ids are those of Hugging Face's tokenizers library.

About 15 s, most of it Hugging Face's library on every assigned code point.
"""

import sys
from functools import cache
from pathlib import Path
from unicodedata import category

import gigatoken
import numpy as np
import pytest
from tokenized_texts import of_both
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from llama31.corpus.encoder import ExactEncoder
from llama31.corpus.exactness import LLAMA_3
from llama31.corpus.fast_encoder import Inexact
from llama31.corpus.texts import LONGEST_TEXT, Texts

CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
ASSIGNED = [character for character in CHARACTERS if category(character) != "Cn"]
UNASSIGNED = [character for character in CHARACTERS if category(character) == "Cn"]
CONTEXTS = "a{0}'s|1{0}1|!{0}\n{0}\n '{0} {0}a12{0}3"
"""Each character among letters, digits, symbols, spaces and line ends."""

BLOCK = 256  # characters in a text


def llama_3() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(LLAMA_3), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PROVEN = {"Llama 3": llama_3, "GPT-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False)}


@cache
def byte_letters() -> list[str]:
    """The letter that byte-level tokenizers write for each byte."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = {}
    for code in [*range(256), *range(0x1000, 0x10000, 0x1000), *range(0x10000, 0x110000, 0x10000)]:
        encoded = chr(code).encode("utf-8", "surrogatepass")
        if not 0xD800 <= code < 0xE000:
            letters.update(zip(encoded, byte_level.pre_tokenize_str(chr(code))[0][0], strict=True))
    return [letters.get(byte, "") for byte in range(256)]


def probe(directory: Path, pre_tokenizer: pre_tokenizers.PreTokenizer, **parts: object) -> Path:
    """A tokenizer whose ids show where a word ends: within one, each byte of ours merges with one beyond ASCII."""
    letters = byte_letters()
    merges = []
    for ascii_byte in b"aAb1!s' \n":
        for other in filter(None, letters[128:]):
            merges += [(letters[ascii_byte], other), (other, letters[ascii_byte])]
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    tokenizer = Tokenizer(models.BPE({entry: number for number, entry in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROVEN)
def test_every_assigned_code_point(tmp_path: Path, kind: str) -> None:
    """Characters that Python's Unicode version assigns are encoded by gigatoken, without the other library."""
    exact = ExactEncoder(probe(tmp_path, PROVEN[kind]()))
    alone = gigatoken.Tokenizer.from_json((tmp_path / "tokenizer.json").read_bytes())
    blocks = [ASSIGNED[start : start + BLOCK] for start in range(0, len(ASSIGNED), BLOCK)]
    texts = ["x".join(map(CONTEXTS.format, block)) for block in blocks]
    assert not Texts.of(texts).ambiguous()
    ids, lengths = exact.encode_list(texts)
    found = alone.encode_batch(texts, parallel=True)
    for block, right, row in zip(blocks, np.split(ids, np.cumsum(lengths)), found, strict=False):
        assert np.array_equal(right, row), (
            f"gigatoken and tokenizers differ on a character from U+{ord(block[0]):04X} on: "
            "Texts.ambiguous must name it, so that the exact library encodes it"
        )


def test_every_other_code_point_is_left_to_the_exact_library() -> None:
    assert Texts.of([f"a{character}" for character in UNASSIGNED]).ambiguous() == list(range(len(UNASSIGNED)))
    texts = ["a", UNASSIGNED[0], "\u00e9", f"{'a' * 1000}\u2019{UNASSIGNED[-1]}{UNASSIGNED[-1]}", UNASSIGNED[0]]
    assert Texts.of(texts).ambiguous() == [1, 3, 4]


@pytest.mark.parametrize("kind", PROVEN)
def test_letters_that_only_one_library_knows(tmp_path: Path, kind: str) -> None:
    """U+A7CE and U+A7CF came with Unicode 17, U+1C89 with 16; among texts that gigatoken encodes."""
    exact = ExactEncoder(probe(tmp_path, PROVEN[kind]()))
    fast, reference = of_both(tmp_path)
    texts = ["It's \u00e9.", "\ua7ce's", "", "x" * 500, "a\ua7cf1 \ua7ce\n\n", "\u1c89's", "the \u00df's end"]
    for batch in (texts, texts[1:2], texts[::-1], texts[:1], []):
        joined = Texts.of(batch)
        (ids, lengths), (right, right_lengths) = (
            fast.encode(joined, reference.known([joined])),
            exact.encode_list(joined.all()),
        )
        assert lengths.tolist() == right_lengths.tolist()
        assert ids.tolist() == right.tolist()


def test_long_texts_for_the_exact_library_are_refused(tmp_path: Path) -> None:
    fast, _ = of_both(probe(tmp_path, llama_3()))
    long = "a" * (LONGEST_TEXT + 1)
    assert not fast.refusal(long)
    assert not fast.refusal("\ua7ce")
    assert fast.refusal(f"{long}\ua7ce").startswith("a text of 4,194,306 characters; ")


UNPROVEN = {
    "NFC": (llama_3, {"normalizer": normalizers.NFC()}, "its normalizer, NFC, depends on the version of Unicode"),
    "a prefix": (lambda: pre_tokenizers.ByteLevel(add_prefix_space=True), {}, "its pre-tokenizer was not compared"),
    "other words": (
        lambda: pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(LLAMA_3.replace("{1,3}", "")), behavior="isolated"), *llama_3()][:2]
        ),
        {},
        "its pre-tokenizer was not compared",
    ),
}


@pytest.mark.parametrize("name", UNPROVEN)
def test_other_tokenizers_are_left_to_the_exact_library(tmp_path: Path, name: str) -> None:
    pre_tokenizer, parts, reason = UNPROVEN[name]
    with pytest.raises(Inexact, match=reason):
        of_both(probe(tmp_path, pre_tokenizer(), **parts))


def test_added_tokens_that_take_in_spaces(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(probe(tmp_path, llama_3()) / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<s>", lstrip=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Inexact, match="its added token '<s>' depends on the text around it"):
        of_both(tmp_path)
