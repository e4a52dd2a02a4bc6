"""Small inputs of the product's commands: texts, a tokenizer, shards, token files, settings of a run."""

import gzip
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dev import demo_tokenizer
from dev.support.docstrings import docstrings
from llama31 import rules
from llama31.corpus.parts import part_shards
from llama31.corpus.tokenize import tokenize

MODULES = ("argparse", "difflib", "doctest", "inspect", "pathlib", "random", "statistics", "tarfile", "typing")
VOCABULARY = 512
VALIDATION_DOCUMENTS = 40
PART = 6
TOKENIZER, PREPROCESSED = "tokenizer", "preprocessed"


@cache
def texts() -> tuple[str, ...]:
    """Return docstrings of the standard library."""
    return tuple(docstrings(MODULES))


def lines(chosen: Sequence[str]) -> bytes:
    """Return texts as JSON Lines."""
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in chosen)


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def tokenizer(directory: Path) -> Path:
    """Save a tokenizer below a directory and return its path."""
    demo_tokenizer.save(demo_tokenizer.train(texts(), VOCABULARY), directory / TOKENIZER)
    return directory / TOKENIZER


def shards(directory: Path) -> None:
    """Write compressed shards of a training part and of the validation set."""
    for number, shard in enumerate(part_shards(PART)):
        content = gzip.compress(lines(texts()[number : number + 3]), 1, mtime=0)
        write(directory / rules.train_shard_name(shard), content)
    for shard in range(rules.VALIDATION_SHARDS):
        content = gzip.compress(lines(texts()[8 * shard : 8 * shard + 8]), 1, mtime=0)
        write(directory / rules.validation_shard_name(shard), content)


def token_files(directory: Path) -> None:
    """Make a tokenizer, and token files of a training part and of the validation set, with manifests."""
    made = tokenizer(directory)
    source = directory / "texts.jsonl"
    wanted = {
        rules.validation_name(VALIDATION_DOCUMENTS): texts()[:VALIDATION_DOCUMENTS],
        rules.train_part_name(PART): texts()[VALIDATION_DOCUMENTS:],
    }
    for name, chosen in wanted.items():
        write(source, lines(chosen))
        tokenize([source], directory / PREPROCESSED / rules.token_file_name(name), made, quiet=True)
    source.unlink()


def run_settings(directory: Path) -> dict[str, object]:
    """Return settings of a run on the CPU with the data of `token_files`."""
    return {
        "PREPROCESSED_PATH": directory / PREPROCESSED,
        "TOKENIZER_PATH": directory / TOKENIZER,
        "N_VALIDATION_SAMPLES": VALIDATION_DOCUMENTS,
        "TRAIN_PARTS": PART,
        "JOB_DIR": directory / "runs",
        "SIZE": "tiny",
        "DEVICE": "cpu",
        "PRECISION": "fp32",
        "SEQ_LENGTH": 32,
        "GBS": 4,
        "MBS": 2,
        "MAX_LR": 1e-3,
        "WARMUP_STEPS": 2,
        "EVAL_SAMPLES": 4,
        "EVAL_EVERY": 8,
        "SEEDS": 1,
    }
