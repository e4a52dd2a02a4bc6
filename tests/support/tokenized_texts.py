"""Texts to tokenize, and their ids and files by other libraries."""

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from transformers import AutoTokenizer

from llama31.corpus.fast_encoder import FastEncoder
from llama31.corpus.reference import TokenizerReference

ENDINGS = (".bin", ".idx")
TEXTS = ["It's a first text.", "", "The second <|eot_id|> one,\r\nof two lines.", "3"]


def write(path: Path, texts: Sequence[str]) -> Path:
    data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def theirs(prefix: Path, documents_ids: Sequence[Sequence[int]]) -> Path:
    """Megatron's own builder."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    for ids in documents_ids:
        builder.add_item(torch.IntTensor(ids))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    return prefix


def text_to_ids(tokenizer_dir: Path, text: str) -> list[int]:
    """Do what NeMo's AutoTokenizer.text_to_ids does."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True)
    ids: list[int] = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    return ids


def content(prefix: Path, endings: Sequence[str] = ENDINGS) -> list[bytes]:
    return [Path(f"{prefix}{ending}").read_bytes() for ending in endings]


def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "llama31", "tokenize", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def of_both(tokenizer_dir: Path) -> tuple[FastEncoder, TokenizerReference]:
    """The fast encoder and the exact library."""
    (empty := tokenizer_dir / "empty.json").touch()
    reference = TokenizerReference(tokenizer_dir)
    return FastEncoder(tokenizer_dir, lambda: reference.facts(empty, "text", 0)), reference
