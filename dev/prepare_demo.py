"""The demo's data, from nothing: corpus -> tokenizer -> merged files -> token files.

    python3 -m dev.prepare_demo DIRECTORY

Makes DIRECTORY/{c4,tokenizer,merged,preprocessed}. A step whose directory is there and was made from the same inputs
is skipped. About 25 s and 30 MB on two cores.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from dev import demo_corpus, demo_tokenizer
from llama31 import rules
from llama31.corpus import consolidate
from llama31.corpus.files import failures_named
from llama31.corpus.tokenize import tokenize
from llama31.errors import UserError

VALIDATION_DOCUMENTS = 300
"""Documents of the demo's validation set, configs/config_demo.sh's N_VALIDATION_SAMPLES."""

STAMP = "made_from.json"  # in each directory: what it was made from


def step(directory: Path, inputs: dict[str, object], make: Callable[[Path], None]) -> None:
    """Make `directory` by `make`, under a temporary name until it is whole; skip it where its stamp says `inputs`."""
    start = time.monotonic()
    stamp = json.dumps(inputs, indent=2) + "\n"
    try:
        if (directory / STAMP).read_text() == stamp:
            print(f"{directory}: is there")
            return
    except FileNotFoundError:
        pass
    partial = directory.with_name(directory.name + ".partial")
    with failures_named(directory):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        make(partial)
        (partial / STAMP).write_text(stamp)
        shutil.rmtree(directory, ignore_errors=True)
        partial.rename(directory)
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{directory}: {size / 1e6:.1f} MB in {time.monotonic() - start:.1f} s", flush=True)


def digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def prepare(
    root: Path, packages: Sequence[str] = demo_corpus.PACKAGES, validation_documents: int = VALIDATION_DOCUMENTS
) -> None:
    """Make all four directories. Raises UserError for a missing package and where the disk is full."""
    c4, tokenizer, merged, preprocessed = (root / name for name in ("c4", "tokenizer", "merged", "preprocessed"))

    step(
        c4,
        {"packages": demo_corpus.package_versions(packages), "demo_corpus.py": digest(demo_corpus.__file__)},
        lambda directory: demo_corpus.build(directory, packages),
    )
    corpus = digest(c4 / STAMP)

    def train(directory: Path) -> None:
        shards = [
            c4 / rules.train_shard_name(shard) for shards in demo_corpus.TRAIN_SHARDS.values() for shard in shards
        ]
        demo_tokenizer.save(demo_tokenizer.train(demo_tokenizer.texts(shards)), directory)

    step(
        tokenizer,
        {"c4": corpus, "tokenizers": version("tokenizers"), "demo_tokenizer.py": digest(demo_tokenizer.__file__)},
        train,
    )

    def merge(directory: Path) -> None:
        for part, shards in demo_corpus.TRAIN_SHARDS.items():
            consolidate.merge_part(c4, directory, part, shards)
        consolidate.merge_validation(c4, directory, validation_documents)

    step(merged, {"c4": corpus, "validation_documents": validation_documents}, merge)

    def preprocess(directory: Path) -> None:
        names = [rules.train_part_name(part) for part in demo_corpus.TRAIN_SHARDS]
        for name in (*names, rules.validation_name(validation_documents)):
            found = tokenize(
                [merged / f"{name}.json.gz"], directory / rules.token_file_name(name), tokenizer, quiet=True
            )
            print(f"{name}: {found.documents:,} documents, {found.tokens:,} tokens")

    step(preprocessed, {"merged": digest(merged / STAMP), "tokenizer": digest(tokenizer / STAMP)}, preprocess)


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
