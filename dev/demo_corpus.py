"""A corpus in C4's shape from English text that every installation holds: the docstrings of its packages.

    python3 -m dev.demo_corpus DIRECTORY

File names, records and keys are C4's (c4/en/3.0.1); each record is one docstring. The same package versions give
the same bytes. About 15 MB of text; needs about 15 s on one core.
"""

import ast
import gzip
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from importlib import metadata
from pathlib import Path

from llama31 import rules
from llama31.corpus.files import atomic_writer
from llama31.errors import UserError

PACKAGES = ("megatron-core", "networkx", "numpy", "pandas", "scikit-learn", "scipy", "torchmetrics")
"""Distributions whose docstrings are taken: large, well documented, and held by every installation."""

TRAIN_SHARDS = {6: (768, 769, 770), 7: (896, 897, 898)}
"""Training part -> its shards in this corpus; C4 has 128 of each part."""

VALIDATION_PERCENT = 5  # of the documents
MIN_CHARACTERS = 200  # shorter docstrings are left out, as C4 leaves out short pages
MIN_LETTERS = 0.7  # ASCII letters among the characters that are not white space: prose rather than tables
FIRST_DAY = datetime(2019, 4, 18, tzinfo=timezone.utc)  # C4's crawl is of April 2019
CRAWL_SECONDS = 10 * 24 * 3600


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Version of each package. Raises UserError with a line for each that is not installed."""
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
    """Python files of an installed distribution but its tests, as (name within site-packages, path), sorted."""
    for file in sorted(metadata.files(package) or (), key=str):
        if file.suffix == ".py" and not {"test", "tests", ".."}.intersection(file.parts):
            yield str(file), Path(str(file.locate()))


def docstrings(source: bytes) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, in the order they are written."""
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
    """Whether the text is long enough and mostly ASCII letters."""
    if len(text) <= MIN_CHARACTERS:
        return False
    visible = sum(not character.isspace() for character in text)
    letters = sum(character.isascii() and character.isalpha() for character in text)
    return letters >= MIN_LETTERS * visible


def documents(packages: Sequence[str]) -> Iterator[tuple[bytes, dict[str, str]]]:
    """(SHA-256 of the text, C4 record) of each different docstring."""
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
    """File that a document goes to, by its hash, so that training and validation are of one distribution."""
    number = int.from_bytes(digest[:8], "big")
    place, number = number % 100, number // 100
    if place < VALIDATION_PERCENT:
        return rules.validation_shard_name(number % rules.VALIDATION_SHARDS)
    shards = [shard for part in sorted(TRAIN_SHARDS) for shard in TRAIN_SHARDS[part]]
    return rules.train_shard_name(shards[number % len(shards)])


def build(directory: Path, packages: Sequence[str] = PACKAGES) -> None:
    """Write the corpus's shards, each in the order of its documents' hashes. Raises UserError for a missing package."""
    package_versions(packages)
    names = [rules.train_shard_name(shard) for shards in TRAIN_SHARDS.values() for shard in shards]
    names += [rules.validation_shard_name(shard) for shard in range(rules.VALIDATION_SHARDS)]
    contents: dict[str, list[tuple[bytes, str]]] = {name: [] for name in names}
    for digest, record in documents(packages):
        contents[shard_of(digest)].append((digest, json.dumps(record, ensure_ascii=False, separators=(",", ":"))))
    for name, lines in contents.items():
        data = "".join(f"{line}\n" for _, line in sorted(lines)).encode()
        with atomic_writer(directory / name) as file:
            file.write(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
