"""Megatron's reader of token files, also for file systems that refuse to map files into memory.

Megatron maps the .idx in any case, and where it does not map the .bin it takes a short read for a whole one.
"""

from pathlib import Path
from typing import Any

import numpy as np
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, _BinReader, _IndexReader

from llama31.data import file_arrays, token_file
from llama31.data.token_file import HEADER, TYPES, bin_path, idx_path


def opened(prefix: str | Path) -> IndexedDataset:
    """Return a token file as Megatron reads it. `prefix`: its path without extension. Raises OSError or UserError."""
    try:
        token_file.require_mmap(Path(prefix))
    except OSError as error:
        if error.errno not in file_arrays.REFUSALS:
            raise
        return TokensRead(str(prefix))
    return IndexedDataset(str(prefix))


class TokensRead(IndexedDataset):
    """A token file whose .idx is read whole, 20 bytes a document, and whose .bin is read sequence by sequence."""

    def initialize(self, path_prefix: str, multimodal: bool, mmap: bool, object_storage_config: Any) -> None:
        self.path_prefix, self.multimodal, self.mmap = path_prefix, multimodal, mmap
        self.object_storage_config = object_storage_config
        self.bin_reader = _Bin(Path(path_prefix))
        self.index = _Index(Path(path_prefix))


class _Bin(_BinReader):
    def __init__(self, prefix: Path):
        self._path = bin_path(prefix)

    def read(self, dtype: type[np.number], count: int, offset: int) -> np.ndarray:
        return file_arrays.read(self._path, dtype, int(count), int(offset))


class _Index(_IndexReader):
    def __init__(self, prefix: Path):
        path = idx_path(prefix)
        header = file_arrays.read(path, "u1", HEADER.size, 0).tobytes()
        _, _, code, self.sequence_count, self.document_count = HEADER.unpack(header)
        self.dtype = DType.dtype_from_code(code)
        self.dtype_size = TYPES[code].itemsize
        lengths, pointers = HEADER.size, HEADER.size + 4 * self.sequence_count
        self.sequence_lengths = file_arrays.read(path, "<i4", self.sequence_count, lengths)
        self.sequence_pointers = file_arrays.read(path, "<i8", self.sequence_count, pointers)
        ends = pointers + 8 * self.sequence_count
        self.document_indices = file_arrays.read(path, "<i8", self.document_count, ends)
        self.sequence_modes = None
