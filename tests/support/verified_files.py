"""Token files to be verified, their damage, and what `verify` has in doubt."""

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from llama31.corpus import verify_table
from llama31.data.token_file import bin_path, idx_path

DOCUMENTS = [[5], [1, 2, 3], [0, 499, 7, 7], list(range(300)), [9]]

Output = pytest.CaptureFixture[str]
Damage = Callable[[Path], object]


def built(prefix: Path, documents: Sequence[Sequence[int]] = DOCUMENTS, dtype: str = "int32") -> Path:
    """Megatron's token file of these documents."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    builder = IndexedDatasetBuilder(str(bin_path(prefix)), dtype=getattr(np, dtype))
    for ids in documents:
        builder.add_item(torch.IntTensor(ids))
        builder.end_document()
    builder.finalize(str(idx_path(prefix)))
    return prefix


def problems(output: Output, path: Path, tokenizer: Path | None = None) -> list[str]:
    """Lines on what is in doubt; the exit code and the last line must agree with them."""
    exit_code = verify_table.verify(path, tokenizer, head=0)
    *lines, last = output.readouterr().out.splitlines()
    found = [line.partition("PROBLEM: ")[2] for line in lines if "PROBLEM: " in line]
    assert exit_code == bool(found)
    assert ("bad: 0, stale files: 0;" in last) == (not found)
    return found


def put(path_of: Callable[[Path], Path], offset: int, form: str, value: int) -> Damage:
    def change(prefix: Path) -> None:
        content = bytearray(path_of(prefix).read_bytes())
        struct.pack_into(form, content, offset, value)
        path_of(prefix).write_bytes(content)

    return change


def resize(path_of: Callable[[Path], Path], count: int) -> Damage:
    return lambda prefix: os.truncate(path_of(prefix), path_of(prefix).stat().st_size + count)
