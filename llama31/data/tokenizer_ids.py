"""The parts of a tokenizer.json that determine the ids of a text, in normal form. Standard library only."""

from collections.abc import Iterator
from typing import Any

PARTS = {
    "normalizer": (
        "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
        "Replace", "Sequence", "Strip", "StripAccents",
    ),
    "pre_tokenizer": (
        "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength", "Metaspace", "Punctuation",
        "Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit",
    ),
    "model": ("BPE", "Unigram", "WordLevel", "WordPiece"),
    "post_processor": ("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"),
    "decoder": (
        "BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Sequence", "Strip",
        "WordPiece",
    ),
}  # fmt: skip
"""Types of each part of a tokenizer.json, and of nested parts, that the pinned tokenizers library supports."""
LATER_FIELDS: dict[str, dict[str, Any]] = {
    "ByteLevel": {"use_regex": True},
    "Metaspace": {"split": True, "prepend_scheme": "always"},
    "Punctuation": {"behavior": "Isolated"},
}
"""Fields that older versions of the tokenizers library did not write, with their defaults."""


def unknown(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each part of a tokenizer.json that the pinned tokenizers library does not support, and its type."""
    for part, known in PARTS.items():
        yield from ((part, kind) for kind in _types(content.get(part)) if kind not in known)


def _types(part: Any) -> Iterator[str]:
    """Yield the types of a part and of its nested parts."""
    if isinstance(part, dict):
        if isinstance(kind := part.get("type"), str):
            yield kind
        for inner in part.values():
            if isinstance(inner, list):
                yield from (kind for each in inner if isinstance(each, dict) for kind in _types(each))


def id_parts(content: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that determine ids, in a normal form that saving the file again does not change.

    Omits what is not used here: decoder, template of special tokens around a text, truncation, padding, and whether
    decoding skips an added token.
    """
    added = [{name: value for name, value in token.items() if name != "special"} for token in content["added_tokens"]]
    return {
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": _with_defaults(content.get("normalizer")),
        "pre_tokenizer": _with_defaults(content.get("pre_tokenizer")),
        "model": _model(content["model"]),
    }


def _model(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model without disabled options, which older files omit, and with merges as strings."""
    options = {name: value for name, value in model.items() if value is not None and value is not False}
    if "merges" in model:
        options["type"] = model.get("type", "BPE")
        # A merge is "a b" or, where a token may hold a space, ["a", "b"]. As strings, 280,000 of them take 0.05 s.
        merges = model["merges"]
        options["merges"] = [m.replace(" ", "\0") if isinstance(m, str) else "\0".join(m) for m in merges]
    return options


def _with_defaults(part: Any) -> Any:
    """Return a normalizer or pre-tokenizer, with nested ones, as the library writes it now."""
    if isinstance(part, list):
        return [_with_defaults(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    fields = {name: _with_defaults(value) for name, value in part.items()}
    if fields.get("type") == "Metaspace":  # older files have these, with or without prepend_scheme
        fields = {name: value for name, value in fields.items() if name not in ("add_prefix_space", "str_rep")}
    return {**LATER_FIELDS.get(str(fields.get("type")), {}), **fields}
