"""Token files of consecutive shards -> the token file of all of them, without tokenising anything again.

Documents are encoded one by one, so this gives the bytes that tokenising the merged file gives.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llama31.corpus import manifest
from llama31.corpus.files import failures_named
from llama31.corpus.manifest import Manifest, manifest_path
from llama31.corpus.token_file import HEADER, bin_path, idx_path, summary
from llama31.corpus.token_writer import TokenWriter
from llama31.corpus.tokenizer import fingerprint
from llama31.errors import UserError

BLOCK_BYTES = 16 << 20


def join(pieces: Sequence[Path], prefix: Path) -> None:
    """Write PREFIX.bin, .idx and .manifest.json from the pieces in their order.

    Raises UserError where a piece is not whole, or they were made in different ways.
    """
    files = [summary(piece) for piece in pieces]
    combined = _combined([_manifest(piece) for piece in pieces], prefix)
    with failures_named(manifest_path(prefix)):
        manifest_path(prefix).unlink(missing_ok=True)  # it must not describe other data, even for a moment
    with TokenWriter(prefix, files[0].token_type) as writer:
        for file in files:
            _append(writer, bin_path(file.prefix), 0, file.tokens * file.token_type.itemsize, lengths=False)
            _append(writer, idx_path(file.prefix), HEADER.size, 4 * file.documents, lengths=True)
    manifest.write(prefix, replace(combined, bin_sha256=writer.bin_sha256, idx_sha256=writer.idx_sha256))


def remove(pieces: Sequence[Path]) -> None:
    """Remove the token files that were joined, where they are still there."""
    for piece in pieces:
        for path in (manifest_path(piece), idx_path(piece), bin_path(piece)):
            with failures_named(path):
                path.unlink(missing_ok=True)


def is_joined(prefix: Path, inputs: Sequence[str], tokenizer_dir: Path) -> bool:
    """Whether PREFIX is there, made of these inputs. Raises UserError where it was made with another tokenizer."""
    found = manifest.read(prefix)
    if found is None or found.inputs != list(inputs):
        return False
    if found.tokenizer_sha256 != fingerprint(tokenizer_dir):
        raise UserError(f"{prefix}: is there, made with another tokenizer than {tokenizer_dir}; remove one of the two")
    return True


def _append(writer: TokenWriter, path: Path, start: int, count: int, lengths: bool) -> None:
    with failures_named(path), open(path, "rb") as file:
        file.seek(start)
        while count and (data := file.read(min(count, BLOCK_BYTES))):
            writer.write(b"" if lengths else data, data if lengths else b"")
            count -= len(data)
    if count:
        raise UserError(f"{path}: became shorter while it was read")


def _manifest(piece: Path) -> Manifest:
    found = manifest.read(piece)
    if found is None:
        raise UserError(f"{manifest_path(piece)}: no such file; it tells how {piece.name} was made")
    return found


def _combined(manifests: Sequence[Manifest], prefix: Path) -> Manifest:
    """The manifest of all, but for the hashes of the output."""
    ways = {(each.tokenizer_sha256, each.json_key, each.append_eod, each.dtype) for each in manifests}
    if len(ways) > 1:
        raise UserError(f"{prefix}: its shards were tokenised in different ways; remove those of one way")
    return replace(
        manifests[0],
        inputs=[name for each in manifests for name in each.inputs],
        input_bytes=[size for each in manifests for size in each.input_bytes],
        input_sha256=[sha256 for each in manifests for sha256 in each.input_sha256],
        documents=sum(each.documents for each in manifests),
        tokens=sum(each.tokens for each in manifests),
        largest_id=max(each.largest_id for each in manifests),
        versions={name: version for each in manifests for name, version in each.versions.items()},
    )
