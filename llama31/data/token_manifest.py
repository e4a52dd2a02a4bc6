"""PREFIX.manifest.json beside a token file: what it was made from, and how. Standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama31.common.json_files import read_json_if_present, write_json


@dataclass(frozen=True)
class TokenManifest:
    """The facts of one token file."""

    inputs: list[str]
    """Names of the input files, without directory, in the order read."""
    input_bytes: list[int]
    """Their sizes."""
    input_sha256: list[str]
    """SHA-256 of each, in hexadecimal, as all hashes here."""
    json_key: str
    """Key of the text in an input's record."""
    tokenizer_sha256: str
    """Hash of the tokenizer, by what decides its ids; see `tokenizer.hashes`."""
    vocabulary_size: int
    """Largest id of that tokenizer + 1."""
    append_eod: bool
    """Whether each document ends with the end-of-text token."""
    eod_id: int | None
    """Id of that token; none without."""
    dtype: str
    """Type of the ids in the .bin: int32 | uint16."""
    documents: int
    tokens: int
    largest_id: int
    """Largest id in the data."""
    bin_sha256: str
    idx_sha256: str
    versions: dict[str, str]
    """Versions of the libraries that made the ids, first the one that encoded."""
    skipped_lines: int | None = None
    """Lines of the inputs without a text that were skipped; None in a manifest of an earlier version."""
    skipped: list[dict[str, Any]] | None = None
    """File, line and reason of the first of them."""


def manifest_path(prefix: str | Path) -> Path:
    """PREFIX.manifest.json."""
    prefix = Path(prefix)
    return prefix.with_name(prefix.name + ".manifest.json")


def write(prefix: str | Path, manifest: TokenManifest) -> None:
    """Write the manifest of PREFIX. Raises UserError where it cannot be written."""
    write_json(manifest_path(prefix), manifest)


def read(prefix: str | Path) -> TokenManifest | None:
    """Return the manifest of PREFIX; None if it has none. Raises UserError if it is unreadable or damaged."""
    return read_json_if_present(TokenManifest, manifest_path(prefix))
