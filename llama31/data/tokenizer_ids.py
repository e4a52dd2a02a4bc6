"""What of a tokenizer.json decides the ids of a text, however the file was written. Standard library alone."""

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
"""Types that each part of a tokenizer.json may be of, or be put together from, by the pinned tokenizers library."""
LATER_FIELDS: dict[str, dict[str, Any]] = {
    "ByteLevel": {"use_regex": True},
    "Metaspace": {"split": True, "prepend_scheme": "always"},
    "Punctuation": {"behavior": "Isolated"},
}
"""Fields that the tokenizers library writes since some version, with what it takes where an older file has none."""


def unknown(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each part of a tokenizer.json that the pinned tokenizers library cannot read, and its type."""
    for part, known in PARTS.items():
        yield from ((part, kind) for kind in _types(content.get(part)) if kind not in known)


def _types(part: Any) -> Iterator[str]:
    """The type of a part, and those of what it is put together from."""
    if isinstance(part, dict):
        if isinstance(kind := part.get("type"), str):
            yield kind
        for inner in part.values():
            if isinstance(inner, list):
                yield from (kind for each in inner if isinstance(each, dict) for kind in _types(each))


def deciding(content: dict[str, Any]) -> dict[str, Any]:
    """The parts that turn a text into ids, each in one form: equal for a file that was only saved again.

    Left out is what nothing here uses: decoder, template of special tokens around a text, truncation, padding, and
    whether an added token is skipped when ids are decoded.
    """
    added = [{name: value for name, value in token.items() if name != "special"} for token in content["added_tokens"]]
    return {
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": _completed(content.get("normalizer")),
        "pre_tokenizer": _completed(content.get("pre_tokenizer")),
        "model": _model(content["model"]),
    }


def _model(model: dict[str, Any]) -> dict[str, Any]:
    """A model without the options that are off, which older files leave out; merges in one form."""
    options = {name: value for name, value in model.items() if value is not None and value is not False}
    if "merges" in model:
        options["type"] = model.get("type", "BPE")
        # A merge is "a b" or, where a token may hold a space, ["a", "b"]. As strings, 280,000 of them take 0.05 s.
        merges = model["merges"]
        options["merges"] = [m.replace(" ", "\0") if isinstance(m, str) else "\0".join(m) for m in merges]
    return options


def _completed(part: Any) -> Any:
    """A normalizer or pre-tokenizer, and those within it, as the library writes them now."""
    if isinstance(part, list):
        return [_completed(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    fields = {name: _completed(value) for name, value in part.items()}
    if fields.get("type") == "Metaspace":  # an older file has these beside, or instead of, prepend_scheme
        fields = {name: value for name, value in fields.items() if name not in ("add_prefix_space", "str_rep")}
    return {**LATER_FIELDS.get(str(fields.get("type")), {}), **fields}
