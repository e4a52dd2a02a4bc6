"""Verify token files: index, range of ids, manifest, and the benchmark's published counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import PARTIAL, failures_named
from llama31.common.progress import Progress
from llama31.corpus.records import Skipped
from llama31.corpus.token_scan import Scan, scan
from llama31.data import token_manifest
from llama31.data.token_file import TokenFile, TokenType, bin_path, idx_path, require_prefix, summary
from llama31.data.token_manifest import TokenManifest, manifest_path
from llama31.data.tokenizer import hashes, vocabulary_size

SHOWN_BAD_LINES = 3
ENDS = (".bin", ".idx", ".manifest.json")
STALE_SUFFIXES = (PARTIAL, ".checkpoint.json", ".pieces")  # suffixes of files that interrupted work leaves


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer that a token file should have been made with."""

    size: int
    """Largest id + 1."""
    hashes: Sequence[str]
    """Hashes by which manifests may name the tokenizer; see `tokenizer.hashes`."""
    source: str
    """Origin of this information: the tokenizer directory, or the manifest."""

    @staticmethod
    def of(tokenizer_dir: Path) -> "Vocabulary":
        """Return the vocabulary of a tokenizer directory. Raises UserError if it has no tokenizer."""
        return Vocabulary(vocabulary_size(tokenizer_dir), hashes(tokenizer_dir), str(tokenizer_dir))


@dataclass
class TokenFileReport:
    """The result of verifying one token file."""

    prefix: Path
    file: TokenFile | None = None
    """None if headers and sizes show that the .bin/.idx pair is incomplete."""
    largest_id: int | None = None
    """None if the data could not be read to its end."""
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    """Properties without a reference to compare with."""
    notes: list[str] = field(default_factory=list)
    """Information that is not an error."""
    problems: list[str] = field(default_factory=list)
    """Errors."""


def token_files(path: Path) -> list[Path]:
    """Return the prefixes of the token files in a directory, or `path` itself. Raises UserError if there are none."""
    with failures_named(path):
        if not path.is_dir():
            require_prefix(path)
            if bin_path(path).exists() or idx_path(path).exists():
                return [path]
            raise UserError(f"{path}: no such directory, and no such {bin_path(path).name} or {idx_path(path).name}")
        names = [file.name for file in path.iterdir()]
    found = {path / name.removesuffix(end) for name in names for end in ENDS if name.endswith(end)}
    if not found:
        raise UserError(f"{path}: no token files (.bin, .idx); python3 -m llama31 tokenize makes them")
    return sorted(found)


def stale_files(path: Path) -> list[str]:
    """Return a line for each file in a directory, or of a prefix, that interrupted work left."""
    directory, start = (path, "") if path.is_dir() else (path.parent, f"{path.name}.")
    with failures_named(directory):
        names = sorted(file.name for file in directory.iterdir())
    found = [directory / name for name in names if name.startswith(start) and name.endswith(STALE_SUFFIXES)]
    return [f"{file}: left by an interrupted command; run it again or remove this" for file in found]


def verify_files(prefixes: Sequence[Path], vocabulary: Vocabulary | None) -> tuple[list[TokenFileReport], str]:
    """Verify token files; return a report of each, and bytes read, time and rate. `vocabulary`: of --tokenizer."""
    reports = list(map(_check_headers, prefixes))
    whole = [(report, report.file) for report in reports if report.file]
    sizes = [path(file.prefix).stat().st_size for _, file in whole for path in (bin_path, idx_path)]
    with Progress("verify", sum(sizes)) as progress:
        for report, file in whole:
            try:
                _check_contents(report, file, vocabulary, progress)
            except UserError as error:
                report.problems += error.lines
        return reports, progress.figures()


def _check_headers(prefix: Path) -> TokenFileReport:
    try:
        return TokenFileReport(prefix, summary(prefix))
    except UserError as error:
        return TokenFileReport(prefix, problems=error.lines)


def _check_contents(report: TokenFileReport, file: TokenFile, given: Vocabulary | None, progress: Progress) -> None:
    """Scan a token file and complete its report. Raises UserError if the data cannot be read."""
    manifest = None
    try:
        manifest = token_manifest.read(file.prefix)
    except UserError as error:
        report.problems += error.lines
    vocabulary = given
    if manifest and not given:
        vocabulary = Vocabulary(manifest.vocabulary_size, (manifest.tokenizer_sha256,), "manifest")
    largest_allowed = min(vocabulary.size if vocabulary else file.token_type.limit, file.token_type.limit) - 1
    found = scan(file, largest_allowed, manifest is not None, progress)
    report.largest_id = found.largest_id
    report.problems += found.problems
    report.checked.append("index")
    if vocabulary:
        report.checked.append(f"ids below {vocabulary.size:,} ({vocabulary.source})")
        if vocabulary.size > file.token_type.limit:
            name = file.token_type.name
            report.problems.append(f"{idx_path(file.prefix)}: {name} cannot hold the ids of {vocabulary.source}")
    else:
        report.unchecked.append("range of the ids (no manifest, no tokenizer)")
    if manifest:
        report.checked.append("manifest")
        report.notes += _skipped(Skipped.of_manifest(manifest))
        report.problems += _differences(file, manifest, found, vocabulary)
    else:
        report.unchecked.append("hashes (no manifest)")
    _compare_with_known(report, file, vocabulary)


def _skipped(skipped: Skipped) -> Iterator[str]:
    """Yield a line about the bad lines of the inputs, if any."""
    if skipped.count:
        lines = [f"{bad.file}:{bad.line} ({bad.reason})" for bad in skipped.listed[:SHOWN_BAD_LINES]]
        more = skipped.count - len(lines)
        yield f"bad lines skipped: {skipped.count:,}: {', '.join(lines)}{f' and {more:,} more' if more else ''}"


def _differences(file: TokenFile, manifest: TokenManifest, found: Scan, vocabulary: Vocabulary | None) -> list[str]:
    """Return a line for each field of the manifest that differs from the data or from the tokenizer."""
    facts: dict[str, object] = {
        "documents": file.documents,
        "tokens": file.tokens,
        "dtype": file.token_type.name,
        "largest_id": found.largest_id,
        "bin_sha256": found.bin_sha256,
        "idx_sha256": found.idx_sha256,
    }
    path = manifest_path(file.prefix)
    lines = [
        f"{path}: {name}={getattr(manifest, name)}, the data has {fact}"
        for name, fact in facts.items()
        if getattr(manifest, name) != fact
    ]
    if vocabulary and manifest.tokenizer_sha256 not in vocabulary.hashes:
        lines.append(f"{path}: the data was made with another tokenizer than {vocabulary.source}")
    return lines


def _compare_with_known(report: TokenFileReport, file: TokenFile, vocabulary: Vocabulary | None) -> None:
    """Compare a token file that has the name of an MLCommons file with the published counts.

    If the tokenizer is unknown, it is assumed to be Llama 3.1's if the type of the ids is that of its vocabulary.
    """
    known = rules.KNOWN_COUNTS.get(file.prefix.name)
    if known is None:
        return
    if vocabulary:
        is_llama = vocabulary.size == rules.VOCABULARY_SIZE
    else:
        is_llama = file.token_type is TokenType.for_vocabulary(rules.VOCABULARY_SIZE)
    counts = {}
    if is_llama or known.any_tokenizer:
        counts["documents"] = (file.documents, known.documents)
    if is_llama:
        counts["tokens"] = (file.tokens, known.tokens)
    else:
        report.unchecked.append("MLCommons' counts (of Llama 3.1's tokenizer)")
    if counts:
        counts_text = " and ".join(f"{published:,} {name}" for name, (_, published) in counts.items())
        report.checked.append(f"MLCommons' {counts_text}")
    for name, (actual, published) in counts.items():
        if actual != published:
            remedy = "" if vocabulary else "; if another tokenizer made it, pass that as --tokenizer"
            report.problems.append(f"{idx_path(file.prefix)}: {actual:,} {name}, MLCommons' has {published:,}{remedy}")
