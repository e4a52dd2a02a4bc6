"""Build a corpus in C4's format from English text that every installation has: the docstrings of its packages.

    python3 -m dev.demo_corpus DIRECTORY

File names, records and keys are those of C4 (c4/en/3.0.1), not compressed yet; each record is one docstring. Writes all
shards of the parts that the benchmark trains on, and all validation shards. The same package versions give the same
bytes. About 15 MB of text, about 15 s on one core.
"""

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path

from llama31 import rules
from llama31.common.errors import UserError
from llama31.corpus.parts import part_shards

PACKAGES = ("megatron-core", "networkx", "numpy", "pandas", "scikit-learn", "scipy", "torchmetrics")
"""Distributions whose docstrings are used: large, well documented, and in every installation."""

TRAIN_SHARDS = [
    rules.train_shard_name(shard).removesuffix(".gz") for part in rules.BENCHMARK_PARTS for shard in part_shards(part)
]
VALIDATION_SHARDS = [rules.validation_shard_name(shard).removesuffix(".gz") for shard in range(rules.VALIDATION_SHARDS)]

VALIDATION_PERCENT = 5  # of the documents
MIN_CHARACTERS = 200  # shorter docstrings are left out, as C4 leaves out short pages
MIN_LETTERS = 0.7  # ASCII letters among the characters that are not white space: prose rather than tables
FIRST_DAY = datetime(2019, 4, 18, tzinfo=timezone.utc)  # C4's crawl is of April 2019
CRAWL_SECONDS = 10 * 24 * 3600


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the version of each package. Raises UserError with a line for each that is not installed."""
    versions, missing = {}, []
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(f"package {package} is not installed; pip install -r requirements.txt")
    if missing:
        raise UserError(missing)
    return versions


def source_files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the Python files of an installed distribution except tests: name in site-packages and path, sorted."""
    for file in sorted(metadata.files(package) or (), key=str):
        if file.suffix == ".py" and not {"test", "tests", ".."}.intersection(file.parts):
            yield str(file), Path(str(file.locate()))


def docstrings(source: bytes) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions in source order."""
    try:
        pending: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError):
        return  # templates and files for other Python versions
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text is not None:
                yield inspect.cleandoc(text).strip()
        pending.extend(child for child in reversed(list(ast.iter_child_nodes(node))) if not isinstance(child, ast.expr))


def is_english(text: str) -> bool:
    """Return whether a text is long enough and mostly ASCII letters."""
    if len(text) <= MIN_CHARACTERS:
        return False
    visible = sum(not character.isspace() for character in text)
    letters = sum(character.isascii() and character.isalpha() for character in text)
    return letters >= MIN_LETTERS * visible


def documents(packages: Sequence[str]) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield each distinct docstring as SHA-256 of the text and C4 record."""
    seen = set()
    for package in packages:
        for name, path in source_files(package):
            for text in docstrings(path.read_bytes()):
                digest = hashlib.sha256(text.encode()).digest()
                if digest not in seen and is_english(text):
                    seen.add(digest)
                    moment = FIRST_DAY + timedelta(seconds=int.from_bytes(digest[8:16], "big") % CRAWL_SECONDS)
                    url = f"pypi://{package}/{name}"
                    yield digest, {"text": text, "timestamp": f"{moment:%Y-%m-%dT%H:%M:%SZ}", "url": url}


def shard_of(digest: bytes) -> str:
    """Return the shard of a document, chosen by its hash: training and validation have the same distribution."""
    number = int.from_bytes(digest[:8], "big")
    place, number = number % 100, number // 100
    shards = VALIDATION_SHARDS if place < VALIDATION_PERCENT else TRAIN_SHARDS
    return shards[number % len(shards)]


def build(directory: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Write the shards, each in the order of its documents' hashes. Raises UserError for a missing package.

    A single small package would leave shards empty, and the commands refuse empty ones.
    """
    package_versions(packages)
    contents: dict[str, list[tuple[bytes, str]]] = {name: [] for name in (*TRAIN_SHARDS, *VALIDATION_SHARDS)}
    for digest, record in documents(packages):
        contents[shard_of(digest)].append((digest, json.dumps(record, ensure_ascii=False, separators=(",", ":"))))
    directory.mkdir(parents=True, exist_ok=True)
    for name, lines in contents.items():
        (directory / name).write_text("".join(f"{line}\n" for _, line in sorted(lines)), encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
