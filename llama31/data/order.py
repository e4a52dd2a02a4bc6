"""Data order: the tokens of each training sequence, in Megatron's order for one pass over the data.

Megatron's GPTDataset shuffles the documents of a part (by documents it means the stored sequences of the .idx; other
tools may write several per document), cuts their concatenation into sequences and shuffles those. This module repeats
that with the same random draws and Megatron's function for the cuts, but stores only the sequences that a run can need,
in training order. The order depends only on the data, the seed and the sequence length, not on the number of sequences.

For each part, named after its token file:

    ....documents.npy   int32 [entries]: the documents of the first sequence, then of the second, ...
    ....ends.npy        int32 or int64 [2 x sequences, 2]: start and end of each sequence, both as a position in
                        documents and an offset in that document [tokens]

For a blend of several parts (megatron.core.datasets.blended_dataset), for each sequence of the run:

    dataset_index.npy, dataset_sample_index.npy   int16, int64 [sequences]: its part, and its number in that part
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from megatron.core.datasets import helpers
from numpy.lib import format as npy

from llama31.common.progress import Progress
from llama31.data import token_file, token_reader

DATASET_INDEX, DATASET_SAMPLE_INDEX = "dataset_index.npy", "dataset_sample_index.npy"
AT_ONCE = 65_536  # sequences whose documents are written at a time


def documents_file(prefix: str | Path) -> str:
    """Return the file name of a part's documents."""
    return f"{Path(prefix).name}.documents.npy"


def ends_file(prefix: str | Path) -> str:
    """Return the file name of the starts and ends of a part's sequences."""
    return f"{Path(prefix).name}.ends.npy"


def write(directory: Path, prefixes: Sequence[str], seq_length: int, seed: int, samples: int) -> None:
    """Write the index of the first `samples` sequences of these parts into an empty directory.

    Each part must hold a whole sequence: Megatron's blending helper writes out of bounds for an empty part.
    """
    files = [token_file.summary(prefix) for prefix in prefixes]
    assert all(file.sequences(seq_length) for file in files), f"a part without a sequence of {seq_length}: {prefixes}"
    taken = [samples]
    with Progress("index", 3 * 4 * sum(file.stored_sequences for file in files)) as progress:
        if len(files) > 1:
            taken = _write_blend(directory, [file.sequences(seq_length) for file in files], samples)
        for prefix, count in zip(prefixes, taken, strict=True):
            _write_part(directory, prefix, seq_length, seed, count, progress)


def _write_blend(directory: Path, sizes: Sequence[int], samples: int) -> list[int]:
    """Write the part of each sequence. Return the sequences to write for each part, at least 1: no file is empty."""
    part, number = np.zeros(sum(sizes), dtype=np.int16), np.zeros(sum(sizes), dtype=np.int64)
    helpers.build_exhaustive_blending_indices(part, number, list(sizes), len(sizes))
    _save(directory / DATASET_INDEX, part[:samples])
    _save(directory / DATASET_SAMPLE_INDEX, number[:samples])
    return [max(1, int(count)) for count in np.bincount(part[:samples], minlength=len(sizes))]


def _lengths(prefix: str) -> np.ndarray:
    """Return the tokens of each document, int32 [documents]."""
    file = token_reader.opened(prefix)  # its arrays are unmapped when it is deleted
    return file.sequence_lengths.copy()


def _save(file: Path, array: npt.NDArray[Any]) -> None:
    """Write a .npy file. Raises OSError; numpy's own writers say how much they wrote, but not why no more."""
    with file.open("wb") as out:
        npy.write_array_header_1_0(out, npy.header_data_from_array_1_0(array))
        out.write(np.ascontiguousarray(array).data)


def _write_part(directory: Path, prefix: str, seq_length: int, seed: int, count: int, progress: Progress) -> None:
    """Write the first `count` sequences of a part."""
    lengths = _lengths(prefix)
    progress.add(lengths.nbytes)
    random = np.random.RandomState(seed)
    documents = np.arange(len(lengths), dtype=np.int32)
    random.shuffle(documents)
    progress.add(lengths.nbytes)
    cuts = helpers.build_sample_idx(lengths, documents, seq_length, 1, int(lengths.sum()))  # [sequences + 1, 2]
    chosen = np.arange(len(cuts) - 1, dtype=np.int64)
    random.shuffle(chosen)
    chosen = chosen[:count]
    begins, ends = cuts[chosen].astype(np.int64), cuts[chosen + 1].astype(np.int64)
    counts = ends[:, 0] - begins[:, 0] + 1  # of documents, including those cut at either end
    positions = np.concatenate([[0], np.cumsum(counts)])
    dtype = np.int32 if positions[-1] <= np.iinfo(np.int32).max else np.int64
    rows = np.empty((2 * count, 2), dtype=dtype)
    rows[0::2, 0], rows[0::2, 1] = positions[:-1], begins[:, 1]
    rows[1::2, 0], rows[1::2, 1] = positions[1:] - 1, ends[:, 1]
    _save(directory / ends_file(prefix), rows)
    with open(directory / documents_file(prefix), "wb") as out:
        npy.write_array_header_1_0(out, {"descr": "<i4", "fortran_order": False, "shape": (int(positions[-1]),)})
        for first in range(0, count, AT_ONCE):
            here = slice(first, first + AT_ONCE)
            shifts = np.repeat(begins[here, 0] - positions[:-1][here], counts[here])
            out.write(documents[shifts + np.arange(positions[first], positions[first] + len(shifts))].data)
    progress.add(lengths.nbytes)
