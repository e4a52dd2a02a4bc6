"""Join the token files of consecutive shards into one, without tokenising again.

Documents are encoded one by one, so the result has the same bytes as tokenising the merged file.
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

OnProgress = Callable[[int], object]
"""Callback for progress: receives the number of bytes that were joined."""


def join(job: TokenizeJob, pieces: Sequence[Path], on_progress: OnProgress = bool) -> None:
    """Write a job's output from `pieces`, the token files of its inputs, one for each.

    Does nothing if the output exists. Raises UserError if a piece is incomplete or was made with other inputs or
    options than the job's, and the errors of TokenizeJob.finished.
    """
    with exclusive(job.prefix):
        if not job.finished():
            files = [summary(piece) for piece in pieces]
            combined = _combined([_manifest(job, *each) for each in zip(job.inputs, pieces, strict=True)])
            job.require_bad_lines_within_limit(combined)
            # If this run is killed, the checkpoint tells the next one which job the partial files belong to.
            tokenize_checkpoint.store(
                job.prefix, TokenizeCheckpoint(job.identity, encoder=next(iter(combined.versions)))
            )
            _write(files, job.prefix, combined, on_progress)
        tokenize_checkpoint.discard(job.prefix)


def size(pieces: Sequence[Path]) -> int:
    """Return the bytes that `join` reads from pieces. Raises UserError if one is incomplete."""
    return sum(_bin_bytes(file) + _lengths_bytes(file) for file in map(summary, pieces))


def remove(pieces: Sequence[Path]) -> None:
    """Remove the token files of pieces, if they exist."""
    for piece in pieces:
        for path in (manifest_path(piece), idx_path(piece), bin_path(piece)):
            with failures_named(path):
                path.unlink(missing_ok=True)


def _write(files: Sequence[TokenFile], prefix: Path, combined: TokenManifest, on_progress: OnProgress) -> None:
    with failures_named(manifest_path(prefix)):
        manifest_path(prefix).unlink(missing_ok=True)  # an old manifest must never be beside new data
    with TokenWriter(prefix, files[0].token_type) as writer:

        def ids(data: bytes) -> None:
            writer.write(data, b"")
            on_progress(len(data))

        def lengths(data: bytes) -> None:
            writer.write(b"", data)
            on_progress(len(data))

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
        raise UserError(f"{path}: truncated while it was read")


def _manifest(job: TokenizeJob, source: Path, piece: Path) -> TokenManifest:
    """Return a piece's manifest. Raises UserError if the piece was not made from `source` by the options of `job`."""
    path = manifest_path(piece)
    found = token_manifest.read(piece)
    if found is None:
        raise UserError(f"{path}: no such file; it records how {piece.name} was made")
    for name, value in {**job.identity, "inputs": [source.name]}.items():
        if getattr(found, name) != value:
            raise UserError(f"{path}: made with {name}={getattr(found, name)}, now {value}; remove {piece.name}")
    return found


def _combined(manifests: Sequence[TokenManifest]) -> TokenManifest:
    """Return the manifest of the joined file, except for the hashes of the output."""
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
