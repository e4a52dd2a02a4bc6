"""Whether token files are what they are said to be: by index, tokenizer, manifest, and the benchmark's known counts."""

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
LEFT_OVER = (PARTIAL, ".checkpoint.json", ".pieces")  # by work that was cut short


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer whose ids a token file should hold."""

    size: int
    """Largest id + 1."""
    hashes: Sequence[str]
    """That its data may have on record; see `tokenizer.hashes`."""
    source: str
    """Where this is known from."""

    @staticmethod
    def of(tokenizer_dir: Path) -> "Vocabulary":
        """A tokenizer's. Raises UserError where the directory holds none."""
        return Vocabulary(vocabulary_size(tokenizer_dir), hashes(tokenizer_dir), str(tokenizer_dir))


@dataclass
class TokenFileReport:
    """What was found about one token file."""

    prefix: Path
    file: TokenFile | None = None
    """None where a first look shows that the pair is not whole."""
    largest_id: int | None = None
    """None where the data was not read to its end."""
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    """What nothing is known to compare with."""
    notes: list[str] = field(default_factory=list)
    """What is right and should be known."""
    doubts: list[str] = field(default_factory=list)


def token_files(path: Path) -> list[Path]:
    """Prefixes of the token files in a directory, or `path` itself. Raises UserError where there are none."""
    with failures_named(path):
        if not path.is_dir():
            require_prefix(path)
            if bin_path(path).exists() or idx_path(path).exists():
                return [path]
            raise UserError(f"{path}: no such directory, and no such {bin_path(path).name} or {idx_path(path).name}")
        names = [file.name for file in path.iterdir()]
    found = {path / name.removesuffix(end) for name in names for end in ENDS if name.endswith(end)}
    if not found:
        raise UserError(f"{path}: holds no token files (.bin, .idx); python3 -m llama31 tokenize makes them")
    return sorted(found)


def left_over(path: Path) -> list[str]:
    """A line for each file in a directory, or of a PREFIX, that was left by work that was cut short."""
    directory, start = (path, "") if path.is_dir() else (path.parent, f"{path.name}.")
    with failures_named(directory):
        names = sorted(file.name for file in directory.iterdir())
    found = [directory / name for name in names if name.startswith(start) and name.endswith(LEFT_OVER)]
    return [f"{file}: left by work that was cut short; start that again, or remove this" for file in found]


def verify_files(prefixes: Sequence[Path], vocabulary: Vocabulary | None) -> tuple[list[TokenFileReport], str]:
    """Judge token files, and tell how much was read in what time. `vocabulary`: of a tokenizer that is given."""
    verdicts = list(map(_first_look, prefixes))
    whole = [(verdict, verdict.file) for verdict in verdicts if verdict.file]
    sizes = [path(file.prefix).stat().st_size for _, file in whole for path in (bin_path, idx_path)]
    with Progress("verify", sum(sizes)) as progress:
        for verdict, file in whole:
            try:
                _read_through(verdict, file, vocabulary, progress)
            except UserError as error:
                verdict.doubts += error.lines
        return verdicts, progress.figures()


def _first_look(prefix: Path) -> TokenFileReport:
    try:
        return TokenFileReport(prefix, summary(prefix))
    except UserError as error:
        return TokenFileReport(prefix, doubts=error.lines)


def _read_through(verdict: TokenFileReport, file: TokenFile, given: Vocabulary | None, progress: Progress) -> None:
    """Complete a verdict. Raises UserError where the data cannot be read."""
    made = None
    try:
        made = token_manifest.read(file.prefix)
    except UserError as error:
        verdict.doubts += error.lines
    vocabulary = given
    if made and not given:
        vocabulary = Vocabulary(made.vocabulary_size, (made.tokenizer_sha256,), "manifest")
    largest_right = min(vocabulary.size if vocabulary else file.token_type.limit, file.token_type.limit) - 1
    found = scan(file, largest_right, made is not None, progress)
    verdict.largest_id = found.largest_id
    verdict.doubts += found.doubts
    verdict.checked.append("index")
    if vocabulary:
        verdict.checked.append(f"ids below {vocabulary.size:,} ({vocabulary.source})")
        if vocabulary.size > file.token_type.limit:
            name = file.token_type.name
            verdict.doubts.append(f"{idx_path(file.prefix)}: {name} cannot hold the ids of {vocabulary.source}")
    else:
        verdict.unchecked.append("range of the ids (no manifest and no tokenizer to go by)")
    if made:
        verdict.checked.append("manifest")
        verdict.notes += _skipped(Skipped.of_manifest(made))
        verdict.doubts += _differences(file, made, found, vocabulary)
    else:
        verdict.unchecked.append("hashes (no manifest to go by)")
    _compare_with_known(verdict, file, vocabulary)


def _skipped(skipped: Skipped) -> Iterator[str]:
    """A line on the bad lines that the inputs had, if any."""
    if skipped.count:
        lines = [f"{bad.file}:{bad.line} ({bad.reason})" for bad in skipped.listed[:SHOWN_BAD_LINES]]
        more = skipped.count - len(lines)
        yield f"bad lines skipped: {skipped.count:,}: {', '.join(lines)}{f' and {more:,} more' if more else ''}"


def _differences(file: TokenFile, made: TokenManifest, found: Scan, vocabulary: Vocabulary | None) -> list[str]:
    """Lines on where the manifest is of other data, or of another tokenizer than the one given."""
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
        f"{path}: says {name}={getattr(made, name)}, but it is {fact}"
        for name, fact in facts.items()
        if getattr(made, name) != fact
    ]
    if vocabulary and made.tokenizer_sha256 not in vocabulary.hashes:
        lines.append(f"{path}: the data was made with another tokenizer than {vocabulary.source}")
    return lines


def _compare_with_known(verdict: TokenFileReport, file: TokenFile, vocabulary: Vocabulary | None) -> None:
    """Compare with MLCommons' data, where the name says that this is it.

    Data of which nothing tells the tokenizer counts as MLCommons' where it has the type of its ids.
    """
    known = rules.KNOWN_COUNTS.get(file.prefix.name)
    if known is None:
        return
    if vocabulary:
        is_llamas = vocabulary.size == rules.VOCABULARY_SIZE
    else:
        is_llamas = file.token_type is TokenType.for_vocabulary(rules.VOCABULARY_SIZE)
    counts = {}
    if is_llamas or known.any_tokenizer:
        counts["documents"] = (file.documents, known.documents)
    if is_llamas:
        counts["tokens"] = (file.tokens, known.tokens)
    else:
        verdict.unchecked.append("MLCommons' counts (of Llama 3.1's tokenizer)")
    if counts:
        right = " and ".join(f"{right:,} {name}" for name, (_, right) in counts.items())
        verdict.checked.append(f"MLCommons' {right}")
    for name, (here, there) in counts.items():
        if here != there:
            remedy = "" if vocabulary else "; if another tokenizer made it, name that by --tokenizer"
            verdict.doubts.append(f"{idx_path(file.prefix)}: {here:,} {name}, MLCommons' has {there:,}{remedy}")
