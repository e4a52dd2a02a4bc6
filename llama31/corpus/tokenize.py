"""Tokenise JSON lines to a token file, byte for byte the output of NeMo's preprocess_data_for_megatron.py.

Each text becomes one document of one sequence, NeMo's AutoTokenizer.text_to_ids of the text, in the order of the
inputs. No BOS or EOS is added, even if the tokenizer's post-processor would; an empty text gives no document.
"""

import sys
import time
from collections.abc import Callable, Sequence
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
from llama31.corpus import documents, token_writer, tokenize_checkpoint
from llama31.corpus.batches import Batches, Reading
from llama31.corpus.documents import InputChanged
from llama31.corpus.encoder import Encoded, Encoder, ExactEncoder
from llama31.corpus.fast_encoder import FastEncoder, Inexact
from llama31.corpus.pipeline import InOrder
from llama31.corpus.records import NOTHING_SKIPPED, Skipped
from llama31.corpus.token_writer import DamagedExtent, TokenWriter
from llama31.corpus.tokenize_checkpoint import TokenizeCheckpoint
from llama31.corpus.tokenize_job import TokenizeJob
from llama31.data import token_manifest
from llama31.data.token_file import TokenFile, TokenType, summary
from llama31.data.token_manifest import TokenManifest, manifest_path

CHECKPOINT_SECONDS = 20.0  # between two checkpoints: the most work that a kill costs


def tokenize(
    inputs: Sequence[str | Path],
    output_prefix: str | Path,
    tokenizer_dir: str | Path,
    append_eod: bool = False,
    json_key: str = "text",
    bad_line_limit: int = 0,
    quiet: bool = False,
) -> TokenFile:
    """Tokenise JSON lines files, plain, .gz or .zst, to OUTPUT_PREFIX.bin, .idx and .manifest.json.

    `append_eod` ends each document with the tokenizer's end-of-text token (the benchmark's data has none).
    `bad_line_limit`: lines without a text that may be skipped; the manifest counts and lists them. Unless `quiet`,
    shows a progress bar if stderr is a terminal, and prints a summary line to stderr.

    Resumes a killed run, and does nothing if the output exists, made from the same inputs with the same options. Raises
    UserError for an unusable file, line or tokenizer, if the output cannot be written, and if an output exists that was
    made from other inputs or with other options.
    """
    start = time.monotonic()
    files = [Path(path) for path in inputs]
    job = TokenizeJob(files, Path(output_prefix), Path(tokenizer_dir), append_eod, json_key, bad_line_limit)
    with token_writer.exclusive(job.prefix):
        if found := job.finished():
            tokenize_checkpoint.discard(job.prefix)
            _log(f"{job.prefix}: exists, made from the same inputs: {_counts(found)}", quiet)
            return found
        encoder, skipped = _write(job, quiet)
        found = summary(job.prefix)
    seconds = time.monotonic() - start
    figures = f"{size(sum(job.input_bytes))} in {seconds:,.1f} s by {encoder}"
    bad = f"; bad lines skipped: {skipped.count:,}, see {manifest_path(job.prefix).name}" if skipped.count else ""
    _log(f"{job.prefix}: {_counts(found)} from {figures}{bad}", quiet)
    return found


def _counts(found: TokenFile) -> str:
    return f"{found.documents:,} documents, {found.tokens:,} tokens ({found.token_type.name})"


def _log(line: str, quiet: bool = False) -> None:
    if not quiet:
        print(line, file=sys.stderr)


def _write(job: TokenizeJob, quiet: bool) -> tuple[str, Skipped]:
    """Write the output, resuming from its checkpoint; return the library that encoded it, and the bad lines."""
    start = tokenize_checkpoint.load(job.prefix)
    if start and (start.job != job.identity or start.skipped.count > job.bad_line_limit):
        _log(f"{job.prefix}: the partial output is of other inputs or options; starting over", quiet)
        start = None
    if start is None or start.encoder != ExactEncoder.name:
        with Batches(_reading(job, FastEncoder.refusal, start)) as ahead:  # it reads while the encoder is loaded
            try:
                fast = FastEncoder(job.tokenizer_dir, ahead.facts)
                job = replace(job, tokenizer_sha256=fast.facts.fingerprint)
                return fast.name, _resume_or_restart(job, fast, start, ahead, quiet)
            except Inexact as error:
                _log(
                    f"WARNING: {job.tokenizer_dir}: {FastEncoder.name} is not exact for this tokenizer ({error}); "
                    f"encoding with {ExactEncoder.name}, about 20 times slower"
                )
                start = None  # the partial output may be wrong
    exact = ExactEncoder(job.tokenizer_dir)
    with Batches(_reading(job, exact.refusal, start)) as ahead:
        return exact.name, _resume_or_restart(job, exact, start, ahead, quiet)


def _reading(job: TokenizeJob, refusal: Callable[[str], str], start: TokenizeCheckpoint | None) -> Reading:
    """Return what to read, from a checkpoint or from the beginning on."""
    position, skipped = (start.position, start.skipped) if start else (documents.START, NOTHING_SKIPPED)
    return Reading(
        tuple(job.inputs),
        job.json_key,
        job.bad_line_limit,
        refusal,
        position,
        skipped,
        documents.BLOCK_BYTES,
        job.tokenizer_dir if refusal is FastEncoder.refusal else None,
    )


def _resume_or_restart(
    job: TokenizeJob, encoder: Encoder, start: TokenizeCheckpoint | None, batches: Batches, quiet: bool
) -> Skipped:
    """Write the output, resuming from a checkpoint unless the inputs or the partial output have changed since."""
    from_scratch = TokenizeCheckpoint(job.identity, encoder.name)
    try:
        return _write_from(job, encoder, start or from_scratch, batches, quiet)
    except (InputChanged, DamagedExtent) as error:
        _log(f"{job.prefix}: cannot resume ({error}); starting over", quiet)
    batches.close()
    with Batches(_reading(job, encoder.refusal, None)) as all_batches:
        if all_batches.reading.reference_dir:
            all_batches.facts()  # known already; batches follow
        return _write_from(job, encoder, from_scratch, all_batches, quiet)


def _write_from(
    job: TokenizeJob,
    encoder: Encoder,
    start: TokenizeCheckpoint,
    batches: Batches,
    quiet: bool,
) -> Skipped:
    """Write the output from a checkpoint on; return the bad lines. Raises InputChanged or DamagedExtent."""
    if start.has_output:
        token_writer.unpublish(job.prefix)  # for a run that was killed after it gave the files their final names
    else:
        tokenize_checkpoint.discard(job.prefix)
    with failures_named(manifest_path(job.prefix)):
        manifest_path(job.prefix).unlink(missing_ok=True)  # of an output whose data was removed
    token_type = encoder.limits.token_type
    eod: int | None = job.identity["eod_id"]
    position, largest_id, skipped = start.position, start.largest_id, start.skipped
    due = time.monotonic() + CHECKPOINT_SECONDS

    def write(encoded: Encoded) -> None:
        nonlocal largest_id
        ids, lengths = _documents(encoded, eod)
        if len(ids):
            largest_id = max(largest_id, int(ids.max()))
            encoder.limits.check_id(largest_id)
            writer.write(as_bytes(ids, token_type), as_bytes(lengths, TokenType.int32))

    with (
        Progress("tokenize", sum(job.input_bytes), start.position.bytes_read, quiet) as progress,
        TokenWriter(job.prefix, token_type, start.extent) as writer,
        InOrder(write) as writing,
    ):

        def save() -> None:
            writing.wait()
            reached = TokenizeCheckpoint(job.identity, encoder.name, position, writer.sync(), largest_id, skipped)
            tokenize_checkpoint.store(job.prefix, reached)

        for texts, known, skipped, position in batches:  # noqa: B007 (save)
            writing.put(encoder.encode(texts, known))
            progress.reach(position.bytes_read, f"{writer.documents:,} documents, {writer.tokens:,} tokens")
            if time.monotonic() >= due:
                save()
                due = time.monotonic() + CHECKPOINT_SECONDS
        writing.wait()
        if not writer.documents:
            raise UserError(f"{', '.join(map(str, job.inputs))}: no text in any record")
        save()
    token_manifest.write(
        job.prefix,
        TokenManifest(
            **job.identity,
            input_bytes=job.input_bytes,
            input_sha256=[*position.finished, position.place.sha256],
            vocabulary_size=encoder.limits.ids,
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
    """Drop texts without ids, and append `eod` to the others."""
    ids, lengths = encoded
    lengths = lengths[lengths > 0]
    if eod is None:
        return ids, lengths
    return np.insert(ids, np.cumsum(lengths), eod), lengths + 1


def as_bytes(numbers: npt.NDArray[Any], token_type: TokenType) -> memoryview:
    """Return the bytes of numbers in a token file's type."""
    wanted = np.dtype(token_type.name).newbyteorder("<")
    if wanted.itemsize == numbers.itemsize:  # ids, which are unsigned, are smaller than what int32 holds
        return numbers.view(wanted).data.cast("B")
    return numbers.astype(wanted).data.cast("B")
