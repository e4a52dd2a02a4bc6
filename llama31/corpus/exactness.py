"""Conditions under which gigatoken's ids are those of Hugging Face's tokenizers library.

Both split a text into words by the properties of its code points, each by its own version of Unicode: gigatoken 0.10.0
has version 17, tokenizers 0.22.2 version 16. A code point that is a letter to one and a symbol to the other changes
the words around it, and so their ids. Properties of assigned code points hardly ever change, so only code points that
an older version leaves unassigned can differ; Python's own version (13 to 15 for Python 3.10 to 3.12) is older than
both. `texts.Texts.ambiguous` finds such texts. tests/corpus/test_exactness.py compares the two libraries on every code
point that is assigned in Python.
"""

import json
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's pattern for splitting text into words: Meta's llama3 reference code, llama/tokenizer.py."""

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": False}
PROVEN: tuple[Any, ...] = (
    {**BYTE_LEVEL, "use_regex": True},
    {"type": "Sequence", "pretokenizers": [SPLIT, {**BYTE_LEVEL, "use_regex": False}]},
)
"""Pre-tokenizers of tokenizer.json for which all code points were compared: GPT-2's and Llama 3's."""


def unproven_reason(tokenizer: Tokenizer) -> str:
    """Return the part of a tokenizer that was not compared over all code points; empty if all of it was."""
    if tokenizer.normalizer is not None:
        return f"its normalizer, {type(tokenizer.normalizer).__name__}, depends on the version of Unicode"
    if tokenizer.pre_tokenizer is None or _description(tokenizer.pre_tokenizer) not in PROVEN:
        return "its pre-tokenizer was not compared over all of Unicode, as Llama 3's and GPT-2's were"
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.lstrip or token.rstrip or token.single_word:
            return f"its added token {token.content!r} depends on the text around it"
    return ""


def _description(pre_tokenizer: PreTokenizer) -> Any:
    """Return a pre-tokenizer's entry in tokenizer.json, without `trim_offsets`, which does not change ids."""

    def relevant(entries: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in entries.items() if key != "trim_offsets"}

    return json.loads(pre_tokenizer.__getstate__(), object_hook=relevant)
