"""The inputs, options and output of one call of `tokenize`, and whether the output exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import failures_named, sha256_of
from llama31.corpus import documents, tokenize_checkpoint
from llama31.data import token_manifest
from llama31.data.token_file import TokenFile, bin_path, idx_path, require_prefix, summary
from llama31.data.token_manifest import TokenManifest, manifest_path
from llama31.data.tokenizer import end_of_text, fingerprint, hashes, tokenizer_file


@dataclass(frozen=True)
class TokenizeJob:
    """One call of `tokenize`. Raises UserError if an input or the tokenizer is unusable."""

    inputs: Sequence[Path]
    prefix: Path
    tokenizer_dir: Path
    append_eod: bool
    json_key: str
    bad_line_limit: int = 0
    """Bad lines that may be skipped. Not in `identity`: every sufficient limit gives the same data."""
    tokenizer_sha256: str = ""
    """The tokenizer's `fingerprint`, if it is known: computing it takes 0.3 s."""

    def __post_init__(self) -> None:
        documents.check_inputs(self.inputs)
        if self.prefix.name in ("", ".."):
            raise UserError(f"{self.prefix}: a directory; add a name for the output's files")
        require_prefix(self.prefix)
        tokenizer_file(self.tokenizer_dir)
        _ = self.eod_id

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Fields of the manifest that identify the inputs (by name, not by contents) and the options of the output."""
        return {
            "inputs": [path.name for path in self.inputs],
            "tokenizer_sha256": self.tokenizer_sha256 or fingerprint(self.tokenizer_dir),
            "append_eod": self.append_eod,
            "eod_id": self.eod_id,
            "json_key": self.json_key,
        }

    @cached_property
    def eod_id(self) -> int | None:
        """Id to append to each document, if any. Raises UserError if the tokenizer has none."""
        if not self.append_eod:
            return None
        found = end_of_text(self.tokenizer_dir)
        if found is None:
            raise UserError(f"{self.tokenizer_dir}: no end-of-text token (eos_token), which append_eod needs")
        return found

    @property
    def input_bytes(self) -> list[int]:
        """Size of each input on disk."""
        return [path.stat().st_size for path in self.inputs]

    def finished(self) -> TokenFile | None:
        """Return the output; None if unfinished. Raises UserError if incomplete, or of other inputs or options."""
        with failures_named(self.prefix):
            existing = [path for path in (bin_path(self.prefix), idx_path(self.prefix)) if path.exists()]
        manifest = token_manifest.read(self.prefix)
        if manifest is None:
            # A run may have been killed just before it wrote the manifest.
            checkpoint = tokenize_checkpoint.load(self.prefix)
            if existing and not (checkpoint and checkpoint.job == self.identity):
                raise UserError(f"{existing[0]}: exists without a manifest; remove it or use another prefix")
            return None
        for name, value in self.identity.items():
            if getattr(manifest, name) not in (hashes(self.tokenizer_dir) if name == "tokenizer_sha256" else (value,)):
                other = f"{name}={getattr(manifest, name)}, now {value}"
                raise UserError(f"{manifest_path(self.prefix)}: made with {other}; remove it or use another prefix")
        self.require_bad_lines_within_limit(manifest)
        if not existing:
            return None
        if len(existing) == 1:
            advice = "remove this one to make both again"
            raise UserError(f"{existing[0]}: the other file of the .bin/.idx pair is missing; {advice}")
        found = summary(self.prefix)
        if (found.documents, found.tokens) != (manifest.documents, manifest.tokens):
            raise UserError(f"{manifest_path(self.prefix)}: does not match {bin_path(self.prefix).name}; remove both")
        self._require_unchanged(manifest)
        return found

    def require_bad_lines_within_limit(self, manifest: TokenManifest) -> None:
        """Raise UserError if more bad lines were skipped for an output than the limit."""
        count = manifest.skipped_lines or 0
        if count > self.bad_line_limit:
            limit = f"--bad-line-limit={self.bad_line_limit}" if self.bad_line_limit else "--on-bad-line=stop"
            remedy = f"--on-bad-line=skip --bad-line-limit={count} accepts that"
            raise UserError(f"{manifest_path(self.prefix)}: {count:,} bad lines were skipped, now {limit}; {remedy}")

    def _require_unchanged(self, manifest: TokenManifest) -> None:
        """Raise UserError if an input's contents changed; only inputs written after the manifest are read."""
        since = manifest_path(self.prefix).stat().st_mtime_ns
        for path, size, sha256 in zip(self.inputs, manifest.input_bytes, manifest.input_sha256, strict=True):
            status = path.stat()
            is_newer = max(status.st_mtime_ns, status.st_ctime_ns) >= since
            if status.st_size != size or (is_newer and sha256_of(path) != sha256):
                changed = f"{path}: changed since {self.prefix} was made from it"
                raise UserError(f"{changed}; remove that or use another prefix")
