"""Token files of consecutive shards -> the token file of all of them, without tokenising anything again.

Documents are encoded one by one, so this gives the bytes that tokenising the merged file gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.corpus import tokenize_checkpoint
from llama31.corpus.records import Skipped
from llama31.corpus.token_writer import TokenWriter, exclusive
from llama31.corpus.tokenize_checkpoint import TokenizeCheckpoint
from llama31.corpus.tokenize_job import TokenizeJob
from llama31.data import token_manifest
from llama31.data.token_file import HEADER, TokenFile, bin_path, idx_path, summary
from llama31.data.token_manifest import TokenManifest, manifest_path

BLOCK_BYTES = 16 << 20

Told = Callable[[int], object]
"""Is told the bytes that were joined."""


def join(job: TokenizeJob, pieces: Sequence[Path], told: Told = bool) -> None:
    """Make the output of a job from `pieces`, the token files of its inputs, each of one input.

    What is there already is left as it is. Raises UserError where a piece is not whole, or was made otherwise than the
    job says; and what Job.finished raises.
    """
    with exclusive(job.prefix):
        if not job.finished():
            files = [summary(piece) for piece in pieces]
            combined = _combined([_manifest(job, *each) for each in zip(job.inputs, pieces, strict=True)])
            job.require_bad_lines_within_limit(combined)
            # Should this be ended on the way, the checkpoint tells the next run whose files lie there.
            tokenize_checkpoint.store(
                job.prefix, TokenizeCheckpoint(job.identity, encoder=next(iter(combined.versions)))
            )
            _write(files, job.prefix, combined, told)
        tokenize_checkpoint.discard(job.prefix)


def size(pieces: Sequence[Path]) -> int:
    """Bytes that `join` reads of the pieces. Raises UserError where one is not whole."""
    return sum(_bin_bytes(file) + _lengths_bytes(file) for file in map(summary, pieces))


def remove(pieces: Sequence[Path]) -> None:
    """Remove the token files that were joined, where they are still there."""
    for piece in pieces:
        for path in (manifest_path(piece), idx_path(piece), bin_path(piece)):
            with failures_named(path):
                path.unlink(missing_ok=True)


def _write(files: Sequence[TokenFile], prefix: Path, combined: TokenManifest, told: Told) -> None:
    with failures_named(manifest_path(prefix)):
        manifest_path(prefix).unlink(missing_ok=True)  # it must not describe other data, even for a moment
    with TokenWriter(prefix, files[0].token_type) as writer:

        def ids(data: bytes) -> None:
            writer.write(data, b"")
            told(len(data))

        def lengths(data: bytes) -> None:
            writer.write(b"", data)
            told(len(data))

        for file in files:
            _copy(bin_path(file.prefix), 0, _bin_bytes(file), ids)
            _copy(idx_path(file.prefix), HEADER.size, _lengths_bytes(file), lengths)
    token_manifest.write(prefix, replace(combined, bin_sha256=writer.bin_sha256, idx_sha256=writer.idx_sha256))


def _bin_bytes(file: TokenFile) -> int:
    return file.tokens * file.token_type.itemsize


def _lengths_bytes(file: TokenFile) -> int:
    return 4 * file.stored_sequences


def _copy(path: Path, start: int, count: int, write: Callable[[bytes], None]) -> None:
    with failures_named(path), open(path, "rb") as file:
        file.seek(start)
        while count and (data := file.read(min(count, BLOCK_BYTES))):
            write(data)
            count -= len(data)
    if count:
        raise UserError(f"{path}: became shorter while it was read")


def _manifest(job: TokenizeJob, source: Path, piece: Path) -> TokenManifest:
    """What tells how a piece was made. Raises UserError where that is not how `source` is to be tokenised."""
    path = manifest_path(piece)
    found = token_manifest.read(piece)
    if found is None:
        raise UserError(f"{path}: no such file; it tells how {piece.name} was made")
    for name, value in {**job.identity, "inputs": [source.name]}.items():
        if getattr(found, name) != value:
            raise UserError(f"{path}: made otherwise: {name}={getattr(found, name)}, now {value}; remove {piece.name}")
    return found


def _combined(manifests: Sequence[TokenManifest]) -> TokenManifest:
    """The manifest of all, but for the hashes of the output."""
    skipped = reduce(Skipped.plus, map(Skipped.of_manifest, manifests))
    return replace(
        manifests[0],
        inputs=[name for each in manifests for name in each.inputs],
        input_bytes=[size for each in manifests for size in each.input_bytes],
        input_sha256=[sha256 for each in manifests for sha256 in each.input_sha256],
        documents=sum(each.documents for each in manifests),
        tokens=sum(each.tokens for each in manifests),
        largest_id=max(each.largest_id for each in manifests),
        versions={name: version for each in manifests for name, version in each.versions.items()},
        **skipped.in_manifest(),
    )
