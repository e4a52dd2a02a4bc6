"""Manifests of token files, PREFIX.manifest.json: inputs, tokenizer, sizes and hashes. Standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama31.common.json_files import read_json_if_present, write_json


@dataclass(frozen=True)
class TokenManifest:
    """Contents of PREFIX.manifest.json."""

    inputs: list[str]
    """Names of the input files without directory, in input order."""
    input_bytes: list[int]
    """Their sizes, bytes."""
    input_sha256: list[str]
    """SHA-256 of each in hexadecimal, like all hashes here."""
    json_key: str
    """Key of the text in the input records."""
    tokenizer_sha256: str
    """Hash of the tokenizer; see `tokenizer.hashes`."""
    vocabulary_size: int
    """Largest id of that tokenizer + 1."""
    append_eod: bool
    """Whether each document ends with the end-of-text token."""
    eod_id: int | None
    """Id of that token; None without `append_eod`."""
    dtype: str
    """Type of the ids in the .bin: int32 | uint16."""
    documents: int
    tokens: int
    largest_id: int
    """Largest id in the data."""
    bin_sha256: str
    idx_sha256: str
    versions: dict[str, str]
    """Versions of the libraries used, the encoder first."""
    skipped_lines: int | None = None
    """Skipped input lines, which have no text; None in manifests of older versions."""
    skipped: list[dict[str, Any]] | None = None
    """File, line and reason of the first of them."""


def manifest_path(prefix: str | Path) -> Path:
    """Return PREFIX.manifest.json."""
    prefix = Path(prefix)
    return prefix.with_name(prefix.name + ".manifest.json")


def write(prefix: str | Path, manifest: TokenManifest) -> None:
    """Write the manifest of PREFIX. Raises UserError if it cannot be written."""
    write_json(manifest_path(prefix), manifest)


def read(prefix: str | Path) -> TokenManifest | None:
    """Return the manifest of PREFIX; None if it has none. Raises UserError if it is unreadable or damaged."""
    return read_json_if_present(TokenManifest, manifest_path(prefix))
