"""JSON lines -> token file, byte for byte what NeMo's preprocess_data_for_megatron.py makes.

That is NeMo's AutoTokenizer.text_to_ids of each text, one document of one sequence each, in the order of the inputs;
no BOS and no EOS, also where the tokenizer's post-processor would add one; an empty text gives no document.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.progress import Progress
from llama31.common.units import size
from llama31.corpus import documents, records, token_writer, tokenize_checkpoint
from llama31.corpus.documents import Changed
from llama31.corpus.encoder import Encoded, Encoder, Exact, Fast, Inexact
from llama31.corpus.records import NOTHING_SKIPPED, Skipped
from llama31.corpus.token_writer import DamagedExtent, TokenWriter
from llama31.corpus.tokenize_checkpoint import TokenizeCheckpoint
from llama31.corpus.tokenize_job import TokenizeJob
from llama31.data import token_manifest
from llama31.data.token_file import TokenFile, TokenType, summary
from llama31.data.token_manifest import TokenManifest, manifest_path

SAMPLE_TEXTS = 200  # first documents on which the fast encoder is compared before it is trusted
SAMPLE_CHARACTERS = 5000  # of each
CHECKPOINT_SECONDS = 20.0  # between two checkpoints: at most so much work is done again after a kill


def tokenize(
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    tokenizer_dir: str | Path,
    append_eod: bool = False,
    json_key: str = "text",
    bad_line_limit: int = 0,
    quiet: bool = False,
) -> TokenFile:
    """Turn files of JSON lines, plain, .gz or .zst, into OUTPUT_PREFIX.bin, .idx and .manifest.json.

    `append_eod` ends each document with the tokenizer's end-of-text token (the benchmark's data has none).
    `bad_line_limit`: lines without a text that may be skipped; they are counted and listed in the manifest. Progress
    goes to a terminal's stderr, and one line with the figures to stderr at the end; neither with `quiet`.

    What a killed run left is gone on with, and an output that was made from the same inputs in the same way is left as
    it is. Raises UserError for a file, line or tokenizer that cannot be used, where the output cannot be written, and
    where one is there that was made otherwise.
    """
    start = time.monotonic()
    files = [Path(path) for path in inputs]
    job = TokenizeJob(files, Path(output_prefix), Path(tokenizer_dir), append_eod, json_key, bad_line_limit)
    with token_writer.exclusive(job.prefix):
        if found := job.finished():
            tokenize_checkpoint.discard(job.prefix)
            _say(f"{job.prefix}: is there, {_counts(found)}, made from the same inputs", quiet)
            return found
        encoder, skipped = _make(job, Exact(tokenizer_dir), quiet)
        found = summary(job.prefix)
    seconds = time.monotonic() - start
    figures = f"{size(sum(job.input_bytes))} in {seconds:,.1f} s by {encoder}"
    bad = f"; bad lines skipped: {skipped.count:,}, see {manifest_path(job.prefix).name}" if skipped.count else ""
    _say(f"{job.prefix}: {_counts(found)} from {figures}{bad}", quiet)
    return found


def _counts(found: TokenFile) -> str:
    return f"{found.documents:,} documents, {found.tokens:,} tokens ({found.token_type.name})"


def _say(line: str, quiet: bool = False) -> None:
    if not quiet:
        print(line, file=sys.stderr)


def _make(job: TokenizeJob, exact: Exact, quiet: bool) -> tuple[str, Skipped]:
    """Make the output, from its checkpoint on; return the name of the library that made the ids, and the bad lines."""
    start = tokenize_checkpoint.load(job.prefix)
    if start and (start.job != job.identity or start.skipped.count > job.bad_line_limit):
        _say(f"{job.prefix}: what was begun there is of other inputs or options; it is made anew", quiet)
        start = None
    if start is None or start.encoder != exact.name:
        try:
            fast = Fast(exact, _sample(job))
            return fast.name, _go_on(job, fast, exact, start or TokenizeCheckpoint(job.identity, fast.name), quiet)
        except Inexact as error:
            _say(
                f"WARNING: {job.tokenizer_dir}: {Fast.name} is not exact for this tokenizer ({error}); "
                f"all is encoded by {exact.name}, which takes some 20 times as long"
            )
            start = None  # what was written may be wrong
    return exact.name, _go_on(job, exact, exact, start or TokenizeCheckpoint(job.identity, exact.name), quiet)


def _sample(job: TokenizeJob) -> list[str]:
    """The beginning of the first texts."""
    block = next(documents.blocks(job.inputs[0]))
    sample = replace(block, lines=block.lines[:SAMPLE_TEXTS])
    texts, _ = records.texts(sample, job.json_key, lambda _: "", NOTHING_SKIPPED, job.bad_line_limit)
    return [text[:SAMPLE_CHARACTERS] for text in texts]


def _go_on(job: TokenizeJob, encoder: Encoder, exact: Exact, start: TokenizeCheckpoint, quiet: bool) -> Skipped:
    """Make the output from a checkpoint on, or from nothing where what the checkpoint is of was changed since."""
    try:
        return _run(job, encoder, exact, start, quiet)
    except (Changed, DamagedExtent) as error:
        _say(f"{job.prefix}: what was begun there cannot be gone on with ({error}); it is made anew", quiet)
        return _run(job, encoder, exact, TokenizeCheckpoint(job.identity, encoder.name), quiet)


def _run(job: TokenizeJob, encoder: Encoder, exact: Exact, start: TokenizeCheckpoint, quiet: bool) -> Skipped:
    """Make the output from a checkpoint on; return the bad lines. Raises Changed or Damaged where that cannot be."""
    if start.is_begun:
        token_writer.unpublish(job.prefix)  # a run may have been killed after it gave the files their names
    else:
        tokenize_checkpoint.discard(job.prefix)
    with failures_named(manifest_path(job.prefix)):
        manifest_path(job.prefix).unlink(missing_ok=True)  # of an output that was removed
    token_type = TokenType.for_vocabulary(exact.vocabulary)
    eod: int | None = job.identity["eod_id"]
    position, largest_id, skipped = start.position, start.largest_id, start.skipped
    due = time.monotonic() + CHECKPOINT_SECONDS
    with (
        Progress("tokenize", sum(job.input_bytes), start.position.bytes_read, quiet) as progress,
        TokenWriter(job.prefix, token_type, start.extent) as writer,
    ):

        def save() -> None:
            reached = TokenizeCheckpoint(job.identity, encoder.name, position, writer.synced(), largest_id, skipped)
            tokenize_checkpoint.store(job.prefix, reached)

        for block, position in documents.prefetched(documents.read(job.inputs, start.position)):
            texts, skipped = records.texts(block, job.json_key, encoder.refusal, skipped, job.bad_line_limit)
            ids, lengths = _documents(encoder.encode(texts), eod)
            if len(ids):
                largest_id = max(largest_id, int(ids.max()))
                exact.check_id(largest_id)
                writer.write(as_bytes(ids, token_type), as_bytes(lengths, TokenType.int32))
            progress.reach(position.bytes_read, f"{writer.documents:,} documents, {writer.tokens:,} tokens")
            if time.monotonic() >= due:
                save()
                due = time.monotonic() + CHECKPOINT_SECONDS
        if not writer.documents:
            raise UserError(f"{', '.join(map(str, job.inputs))}: no text in any record")
        save()
    token_manifest.write(
        job.prefix,
        TokenManifest(
            **job.identity,
            input_bytes=job.input_bytes,
            input_sha256=[*position.finished, position.place.sha256],
            vocabulary_size=exact.ids,
            dtype=token_type.name,
            documents=writer.documents,
            tokens=writer.tokens,
            largest_id=largest_id,
            bin_sha256=writer.bin_sha256,
            idx_sha256=writer.idx_sha256,
            versions={name: version(name) for name in (encoder.name, "tokenizers", "orjson", "isal")},
            **skipped.in_manifest(),
        ),
    )
    tokenize_checkpoint.discard(job.prefix)
    return skipped


def _documents(encoded: Encoded, eod: int | None) -> Encoded:
    """Leave out texts without ids, and end the others with `eod`."""
    ids, lengths = encoded
    lengths = lengths[lengths > 0]
    if eod is None:
        return ids, lengths
    return np.insert(ids, np.cumsum(lengths), eod), lengths + 1


def as_bytes(numbers: npt.NDArray[Any], token_type: TokenType) -> memoryview:
    """The numbers in a token file's type."""
    return numbers.astype(np.dtype(token_type.name).newbyteorder("<"), copy=False).data.cast("B")
