"""Find words that this project does not use in its prose: comments, docstrings, messages, names, documentation.

    python3 -m dev.check_words [--summary] [FILE ...]

Without FILE, checks the text files of the repository, except recorded output of programs. Prints
`file:line: text -> suggestion` for each phrase listed in dev/words.txt and exits with 1 if there is one, else with 0.
A comment `words: ok, REASON` at the end of a line, or as the only text of the line before it, exempts the line.
Text that spans lines, such as a docstring, may also be exempted as a whole, by a comment after its last line. An
exemption without a reason, and one that exempts nothing, is an error.
"""

import argparse
import re
import subprocess
import sys
import tokenize
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
WORD_LIST = Path(__file__).with_name("words.txt")
ALLOWED = "allowed"
SUFFIXES = {".md", ".sh", ".sbatch", ".j2", ".py", ".toml", ".yaml", ".yml"}
NAMES = re.compile(r"Dockerfile|requirements(-\w+)?\.txt|\.editorconfig")
RECORDED = ("tests/golden/", "tests/fixtures/", "tests/slurm_outputs/2")
"""Paths of recorded output: other programs' text, or our own, whose source is checked instead."""

EXEMPTION = re.compile(r"(?:#|<!--) *words: ok\b(?P<rest>[^\n]*)")
WORD = re.compile(r"[\w-]+")
SENTENCE_START = re.compile(r"(?:\A|[.!?;:]\s|\n\n|^[-*] )\Z", re.MULTILINE)
DOCSTRING_START = re.compile(r"\"\"\"\s*([\w-]+)")
STRING_START = re.compile(r"[a-zA-Z]*(?:\"\"\"|'''|\"|')")
ESCAPED_SPACE = re.compile(r"\\[nrt]")
STRING_PREFIX = re.compile(r"\b[bfruBFRU]{1,2}(?=[\"'])")
PARTS_OF_NAME = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_+")
FSTRING_START, FSTRING_MIDDLE, FSTRING_END = (  # of Python 3.12
    getattr(tokenize, f"FSTRING_{name}", -1) for name in ("START", "MIDDLE", "END")
)


IGNORED = (tokenize.NL, tokenize.COMMENT)
"""Tokens that may stand between two parts of a string."""


@dataclass(frozen=True)
class Entry:
    """A phrase of the word list."""

    anchor: str
    """`^`: matches only at the start of a sentence; `"`: only at the start of a docstring; empty: anywhere."""
    pattern: re.Pattern[str]
    """The phrase, to be matched from its first character."""
    words: list[str]
    """The phrase's words, without punctuation."""
    suggestion: str


@dataclass
class Passage:
    """Prose that belongs together, such as a docstring or consecutive lines of comment."""

    lines: list[tuple[int, str]] = field(default_factory=list)
    """Line number and text, without quotes and comment marks."""
    docstring: bool = False
    last_line: int = 0
    """Line of the file on which it ends, quotes included; 0 if its text has no closing quotes."""


@dataclass(frozen=True)
class Finding:
    """A listed phrase, or an exemption that is wrong."""

    line: int
    message: str


def parse_words(text: str) -> dict[str, list[Entry]]:
    """Parse a word list; return its entries by their first word, the longest first.

    Raises ValueError with the line that is malformed or lists a phrase again.
    """
    suggestions: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        phrases, _, suggestion = line.partition(" -> ")
        for phrase in phrases.split("|"):
            if not suggestion.strip() or not WORD.match(phrase.strip().lstrip('^"')):
                raise ValueError(f"line {number} is not `PHRASE | PHRASE -> SUGGESTION`: {line}")
            if phrase.strip().lower() in suggestions:
                raise ValueError(f"line {number} lists {phrase.strip()!r} again")
            suggestions[phrase.strip().lower()] = suggestion.strip()
    entries: dict[str, list[Entry]] = {}
    for phrase, suggestion in sorted(suggestions.items(), key=lambda item: -len(item[0])):
        anchor, bare = (phrase[0], phrase[1:]) if phrase[0] in '^"' else ("", phrase)
        end = r"(?![\w-])" if bare[-1].isalnum() else ""
        pattern = re.compile(r"\s+".join(map(re.escape, bare.split())) + end, re.IGNORECASE)
        bare_words = WORD.findall(bare)
        entries.setdefault(bare_words[0], []).append(Entry(anchor, pattern, bare_words, suggestion))
    return entries


def matches(words: dict[str, list[Entry]], text: str, docstring: bool) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and suggestion of each listed phrase; an allowed phrase hides those that begin within it."""
    searched = 0
    for word in WORD.finditer(text):
        if word.start() < searched:
            continue
        for entry in words.get(word[0].lower(), ()):
            if not (match := entry.pattern.match(text, word.start())):
                continue
            if entry.anchor == '"' and not (docstring and match.start() == 0):
                continue
            if entry.anchor == "^" and not SENTENCE_START.search(text, max(0, match.start() - 3), match.start()):
                continue
            searched = match.end()
            if entry.suggestion != ALLOWED:
                yield match.start(), match.end(), entry.suggestion
            break


def passages_of_text(text: str) -> Iterator[Passage]:
    """Split Markdown, shell and other text into paragraphs; each line with code is a passage of its own."""
    passage = Passage()
    is_comment = False
    for number, line in enumerate(text.splitlines(), start=1):
        line, prose = EXEMPTION.sub("", line), line.strip()
        comment = prose.startswith("#") and not prose.startswith("#!")
        if not prose or comment != is_comment:
            yield passage
            passage, is_comment = Passage(), comment
        passage.lines.append((number, ESCAPED_SPACE.sub("  ", line).strip().lstrip("#").strip()))
    yield passage


def passages_of_python(path: Path) -> Iterator[Passage]:
    """Yield the comments, strings and names of a Python file; adjacent comments, and strings, are one passage."""
    comments, strings, names = Passage(), Passage(), []
    previous, starts_statement = "", True
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            line = token.start[0]
            if token.type == tokenize.COMMENT:
                alone = not token.line[: token.start[1]].strip()
                if not (alone and comments.lines and comments.lines[-1][0] == line - 1):
                    yield comments
                    comments = Passage()
                comments.lines.append((line, EXEMPTION.sub("", token.string).lstrip("#").strip()))
            elif token.type in (tokenize.STRING, FSTRING_MIDDLE):
                content = token.string
                if token.type == tokenize.STRING and (quotes := STRING_START.match(content)):
                    content = content[quotes.end() :].rstrip("\"'")
                if not strings.lines:
                    strings.docstring = starts_statement
                content = ESCAPED_SPACE.sub("  ", content)
                strings.lines += [(line + i, each.strip()) for i, each in enumerate(content.split("\n"))]
                strings.last_line = token.end[0]
            elif token.type == tokenize.NAME and previous in ("def", "class"):
                names.append(Passage([(line, PARTS_OF_NAME.sub(" ", token.string).strip())]))
            if token.type not in (tokenize.STRING, FSTRING_START, FSTRING_MIDDLE, FSTRING_END, *IGNORED):
                yield strings
                strings = Passage()
            if token.type not in IGNORED:
                starts_statement = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
            previous = token.string
    yield comments
    yield strings
    yield from names


def may_match(text: str, words: dict[str, list[Entry]]) -> bool:
    """Return whether the words of a listed phrase follow each other in a file, code or not: parsing it takes longer."""
    docstrings = set(map(str.lower, DOCSTRING_START.findall(text)))
    found = WORD.findall(PARTS_OF_NAME.sub(" ", STRING_PREFIX.sub(" ", ESCAPED_SPACE.sub(" ", text))).lower())
    return any(
        found[place : place + len(entry.words)] == entry.words
        for place, word in enumerate(found)
        if word in words
        for entry in words[word]
        if entry.anchor != '"' or word in docstrings
        if entry.suggestion != ALLOWED
    )


def exemptions_in(path: Path, lines: Sequence[str]) -> dict[int, re.Match[str]]:
    """Return the exemptions of a file by line; in Python only those in comments, not those in strings."""
    found = {number: match for number, line in enumerate(lines, start=1) if (match := EXEMPTION.search(line))}
    if found and path.suffix == ".py":
        with open(path, "rb") as file:
            starts = {token.start for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT}
        columns = {number: [column for line, column in starts if line == number] for number in found}
        found = {number: match for number, match in found.items() if any(c <= match.start() for c in columns[number])}
    return found


def check(path: Path, words: dict[str, list[Entry]]) -> list[Finding]:
    """Return the listed phrases of a file and its faulty exemptions, in the order of their lines."""
    text = path.read_text(encoding="utf-8")
    if not EXEMPTION.search(text) and not may_match(text, words):
        return []
    lines = text.splitlines()
    exemptions = exemptions_in(path, lines)
    used: set[int] = set()
    findings = []
    for passage in passages_of_python(path) if path.suffix == ".py" else passages_of_text(text):
        prose = "\n".join(line for _, line in passage.lines)
        for start, end, suggestion in matches(words, prose, passage.docstring):
            starts = [0]
            for _, line in passage.lines:
                starts.append(starts[-1] + len(line) + 1)
            first, last = (passage.lines[bisect_right(starts, place) - 1][0] for place in (start, end - 1))
            exempting = {number for number in (*range(first, last + 1), passage.last_line) if number in exemptions}
            if first - 1 in exemptions and not lines[first - 2][: exemptions[first - 1].start()].strip():
                exempting.add(first - 1)
            used |= exempting
            if not exempting:
                findings.append(Finding(first, f"{' '.join(prose[start:end].split())} -> {suggestion}"))
    for number, exemption in exemptions.items():
        reason = exemption["rest"].partition("-->")[0].strip()
        if not re.fullmatch(r", \S.*", reason):
            findings.append(Finding(number, f"exemption without a reason: words: ok{reason}; write: words: ok, REASON"))
        elif number not in used:
            findings.append(Finding(number, f"exemption of a line without a listed word: words: ok{reason}; remove it"))
    return sorted(findings, key=lambda finding: finding.line)


def repository_files() -> list[Path]:
    """Return the text files to check, those that git does not track yet included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.split("\0")
    else:  # an unpacked archive
        names = [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.rglob("*")]
    return [REPOSITORY / name for name in sorted(set(names)) if is_checked(name) and (REPOSITORY / name).is_file()]


def is_checked(name: str) -> bool:
    """Return whether a file of the repository, by its relative path, has prose of ours."""
    path = Path(name)
    hidden = any(part.startswith(".venv") for part in path.parts[:-1]) or path.parts[:1] in (("runs",), ("demo",))
    of_ours = path.suffix in SUFFIXES or NAMES.fullmatch(path.name) or name == ".ci/run"
    return bool(of_ours) and not hidden and not name.startswith(RECORDED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check files, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--summary", action="store_true", help="print the number of findings of each file instead")
    options = parser.parse_args(arguments)
    words = parse_words(WORD_LIST.read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    for path in options.files or repository_files():
        absolute = path.absolute()
        name = str(absolute.relative_to(REPOSITORY) if absolute.is_relative_to(REPOSITORY) else path)
        if absolute.is_relative_to(REPOSITORY) and not is_checked(name):
            continue
        for finding in check(path, words):
            counts[name] += 1
            if not options.summary:
                print(f"{name}:{finding.line}: {finding.message}")
    if options.summary:
        for name, count in counts.most_common():
            print(f"{count:5} {name}")
        print(f"{counts.total():5} in {len(counts)} files")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main())
