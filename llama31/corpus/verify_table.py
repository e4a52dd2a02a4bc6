"""What `verify` shows: first documents as text, and a table of what was found."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.corpus.encoder import Exact
from llama31.corpus.verify import TokenFileReport, Vocabulary, left_over, token_files, verify_files
from llama31.data.token_file import HEADER, TokenFile, bin_path, idx_path, summary

SHOWN_TOKENS = 1000  # of each document
TITLES = ["token file", "documents", "tokens", "type", ".bin bytes", "largest id", "verdict"]
NUMBERS = {"documents", "tokens", ".bin bytes", "largest id"}


def verify(path: Path, tokenizer_dir: Path | None, head: int) -> int:
    """Judge the token file or those of the directory `path`, and print what was found.

    `head`: documents of each to show first. Gives the exit code, 1 on any doubt. Raises UserError where there is
    nothing to judge, or no tokenizer that can be used.
    """
    prefixes = token_files(path)
    vocabulary = Vocabulary.of(tokenizer_dir) if tokenizer_dir else None
    if head and tokenizer_dir is None:
        raise UserError(f"--head={head}: needs the tokenizer; name its directory by --tokenizer or TOKENIZER_PATH")
    if head and tokenizer_dir:
        tokenizer = Exact(tokenizer_dir)
        for prefix in prefixes:
            for line in _first_documents(prefix, head, tokenizer):
                print(line, flush=True)
    verdicts, figures = verify_files(prefixes, vocabulary)
    left = left_over(path)
    doubted = sum(bool(verdict.doubts) for verdict in verdicts)
    print("\n".join(_table(verdicts)))
    for line in left:
        print(f"DOUBT: {line}")
    print(f"{_total(verdicts)}; in doubt: {doubted}, left over: {len(left)}; read: {figures}")
    return 1 if doubted or left else 0


def _first_documents(prefix: Path, count: int, tokenizer: Exact) -> Iterator[str]:
    """The first documents of a token file; nothing where it is not whole, as the table will say."""
    try:
        file = summary(prefix)
        with failures_named(idx_path(prefix)):
            lengths = _lengths(file, count)
        for number, (start, length) in enumerate(zip(accumulate(lengths, initial=0), lengths, strict=False)):
            yield f"--- {prefix.name}, document {number:,}: {length:,} tokens"
            yield _text(file, start, length, tokenizer)
    except UserError:
        return


def _lengths(file: TokenFile, count: int) -> list[int]:
    """Tokens of each of the first documents; each takes the stored sequences up to where the next one begins."""
    path, ends = idx_path(file.prefix), HEADER.size + 12 * file.stored_sequences
    begins = np.fromfile(path, "<i8", min(count, file.documents) + 1, offset=ends)
    if (np.diff(begins) < 1).any() or not 0 <= begins[0] < begins[-1] <= file.stored_sequences:
        return []  # damaged, as the table will say
    sequences = np.fromfile(path, "<i4", begins[-1], offset=HEADER.size).astype(np.int64)
    lengths: list[int] = np.add.reduceat(sequences, begins[:-1]).tolist()
    return lengths


def _text(file: TokenFile, start: int, length: int, tokenizer: Exact) -> str:
    """The text of a document, with what is not for the eye written as Python does; or why there is none."""
    path, dtype = bin_path(file.prefix), np.dtype(file.token_type.name).newbyteorder("<")
    if not 0 <= start <= start + length <= file.tokens:
        return "[not within the data]"
    with failures_named(path):
        ids = np.fromfile(path, dtype, min(length, SHOWN_TOKENS), offset=start * dtype.itemsize).tolist()
    strange = [number for number in ids if not 0 <= number < tokenizer.ids]
    if strange:
        return f"[not decoded: id {strange[0]} is not the tokenizer's]"
    text = "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1]
        for character in tokenizer.decode(ids)
    )
    return f"{text}\n[and {length - len(ids):,} tokens more]" if length > len(ids) else text


def _table(verdicts: Sequence[TokenFileReport]) -> Iterator[str]:
    """A row for each token file, and below it lines on what was compared and what is in doubt."""
    rows = [TITLES, *map(_row, verdicts)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, verdict in zip(rows, [None, *verdicts], strict=True):
        cells = zip(TITLES, row, widths, strict=True)
        yield "  ".join(f"{cell:{'>' if title in NUMBERS else '<'}{width}}" for title, cell, width in cells).rstrip()
        if verdict and verdict.checked:
            yield f"    checked: {'; '.join(verdict.checked)}"
        if verdict and verdict.unchecked:
            yield f"    not checked: {'; '.join(verdict.unchecked)}"
        for line in verdict.notes if verdict else ():
            yield f"    note: {line}"
        for line in verdict.doubts if verdict else ():
            yield f"    DOUBT: {line}"


def _row(verdict: TokenFileReport) -> list[str]:
    state = "DOUBTED" if verdict.doubts else "good"
    if verdict.file is None:
        return [verdict.prefix.name, *"-----", state]
    file = verdict.file
    largest = "-" if verdict.largest_id is None else f"{verdict.largest_id:,}"
    numbers = [f"{file.documents:,}", f"{file.tokens:,}", file.token_type.name]
    return [verdict.prefix.name, *numbers, f"{file.tokens * file.token_type.itemsize:,}", largest, state]


def _total(verdicts: Sequence[TokenFileReport]) -> str:
    files = [verdict.file for verdict in verdicts if verdict.file]
    documents, tokens = sum(file.documents for file in files), sum(file.tokens for file in files)
    return f"token files: {len(verdicts):,}, documents: {documents:,}, tokens: {tokens:,}"
