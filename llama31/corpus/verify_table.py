"""Output of `verify`: the first documents as text, and a table of the reports."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.corpus.encoder import ExactEncoder
from llama31.corpus.verify import TokenFileReport, Vocabulary, stale_files, token_files, verify_files
from llama31.data.token_file import HEADER, TokenFile, bin_path, idx_path, summary

SHOWN_TOKENS = 1000  # of each document
TITLES = ["token file", "documents", "tokens", "type", ".bin bytes", "largest id", "verdict"]
NUMBERS = {"documents", "tokens", ".bin bytes", "largest id"}


def verify(path: Path, tokenizer_dir: Path | None, head: int) -> int:
    """Verify a token file, or all of a directory, and print the reports; return the exit code, 1 on any error.

    `head`: number of documents of each file to print first. Raises UserError if there are no token files or the
    tokenizer is unusable.
    """
    prefixes = token_files(path)
    vocabulary = Vocabulary.of(tokenizer_dir) if tokenizer_dir else None
    if head and tokenizer_dir is None:
        raise UserError(f"--head={head}: needs the tokenizer; pass its directory as --tokenizer or TOKENIZER_PATH")
    unread: list[str] = []
    if head and tokenizer_dir:
        tokenizer = ExactEncoder(tokenizer_dir)
        for prefix in prefixes:
            try:
                for line in _first_documents(prefix, head, tokenizer):
                    print(line, flush=True)
            except UserError as error:
                unread += error.lines
    reports, figures = verify_files(prefixes, vocabulary)
    stale = stale_files(path)
    failed = sum(bool(report.problems) for report in reports)
    print("\n".join(_table(reports)))
    for line in (*stale, *(() if failed else unread)):  # of an incomplete file, the table says more
        print(f"PROBLEM: {line}")
    print(f"{_total(reports)}; bad: {failed}, stale files: {len(stale)}; read: {figures}")
    return 1 if failed or stale or unread else 0


def _first_documents(prefix: Path, count: int, tokenizer: ExactEncoder) -> Iterator[str]:
    """Yield the first documents of a token file as text. Raises UserError if it is incomplete or cannot be read."""
    file = summary(prefix)
    with failures_named(idx_path(prefix)):
        lengths = _lengths(file, count)
    for number, (start, length) in enumerate(zip(accumulate(lengths, initial=0), lengths, strict=False)):
        yield f"--- {prefix.name}, document {number:,}: {length:,} tokens"
        yield _text(file, start, length, tokenizer)


def _lengths(file: TokenFile, count: int) -> list[int]:
    """Return the number of tokens of each of the first documents, the sum over its stored sequences."""
    path, ends = idx_path(file.prefix), HEADER.size + 12 * file.stored_sequences
    begins = np.fromfile(path, "<i8", min(count, file.documents) + 1, offset=ends)
    if (np.diff(begins) < 1).any() or not 0 <= begins[0] < begins[-1] <= file.stored_sequences:
        return []  # damaged, which the table reports
    sequences = np.fromfile(path, "<i4", begins[-1], offset=HEADER.size).astype(np.int64)
    lengths: list[int] = np.add.reduceat(sequences, begins[:-1]).tolist()
    return lengths


def _text(file: TokenFile, start: int, length: int, tokenizer: ExactEncoder) -> str:
    """Return the text of a document, with unprintable characters escaped; or in brackets why there is none."""
    path, dtype = bin_path(file.prefix), np.dtype(file.token_type.name).newbyteorder("<")
    if not 0 <= start <= start + length <= file.tokens:
        return "[outside the data]"
    with failures_named(path):
        ids = np.fromfile(path, dtype, min(length, SHOWN_TOKENS), offset=start * dtype.itemsize).tolist()
    if unknown := [number for number in ids if not 0 <= number < tokenizer.ids]:
        return f"[not decoded: id {unknown[0]} is not the tokenizer's]"
    text = "".join(
        character if character.isprintable() or character in "\n\t" else repr(character)[1:-1]
        for character in tokenizer.decode(ids)
    )
    return f"{text}\n[and {length - len(ids):,} more tokens]" if length > len(ids) else text


def _table(reports: Sequence[TokenFileReport]) -> Iterator[str]:
    """Yield a row for each token file, and below it the checks, notes and errors."""
    rows = [TITLES, *map(_row, reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, report in zip(rows, [None, *reports], strict=True):
        cells = zip(TITLES, row, widths, strict=True)
        yield "  ".join(f"{cell:{'>' if title in NUMBERS else '<'}{width}}" for title, cell, width in cells).rstrip()
        if report and report.checked:
            yield f"    checked: {'; '.join(report.checked)}"
        if report and report.unchecked:
            yield f"    not checked: {'; '.join(report.unchecked)}"
        for line in report.notes if report else ():
            yield f"    note: {line}"
        for line in report.problems if report else ():
            yield f"    PROBLEM: {line}"


def _row(report: TokenFileReport) -> list[str]:
    state = "BAD" if report.problems else "good"
    if report.file is None:
        return [report.prefix.name, *"-----", state]
    file = report.file
    largest = "-" if report.largest_id is None else f"{report.largest_id:,}"
    numbers = [f"{file.documents:,}", f"{file.tokens:,}", file.token_type.name]
    return [report.prefix.name, *numbers, f"{file.tokens * file.token_type.itemsize:,}", largest, state]


def _total(reports: Sequence[TokenFileReport]) -> str:
    files = [report.file for report in reports if report.file]
    documents, tokens = sum(file.documents for file in files), sum(file.tokens for file in files)
    return f"token files: {len(reports):,}, documents: {documents:,}, tokens: {tokens:,}"
