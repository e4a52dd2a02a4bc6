"""Training and validation datasets in the benchmark's data order.

Training: Megatron's GPTDataset and BlendedDataset, documents and sequences shuffled with the run's seed, but read from
our own index. Validation: the first sequences of the validation file in file order, the same for every seed, batch size
and layout.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.datasets.blended_dataset import BlendedDataset
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split
from torch.utils.data import Dataset

from llama31.common.errors import UserError
from llama31.data import file_arrays, order, token_file, token_reader

NO_ID = -1


def fingerprint(tokens: np.ndarray) -> int:
    """Return the fingerprint of a sequence: the first 8 bytes of SHA-256 over its ids as little-endian int64.

    The sum of fingerprints modulo 2^64 identifies the sequences of an evaluation, independent of order and ranks.
    """
    digest = hashlib.sha256(tokens.astype("<i8").tobytes()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def check_ids(tokens: np.ndarray, vocab_size: int, source: str | Path) -> None:
    """Raise UserError if `tokens` holds an id that the tokenizer does not have."""
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        found = tokens.min() if tokens.min() < 0 else tokens.max()
        raise UserError(
            f"{source}: holds token id {found}, but the tokenizer's vocabulary has {vocab_size} ids; "
            "set TOKENIZER_PATH to the tokenizer that the data was made with"
        )


class TrainingSequences(GPTDataset):
    """Megatron's training set over our own index. Raises UserError for an id outside the vocabulary.

    Every id is trained on: the data has no padding, so the tokenizer's padding id may be part of a text.
    """

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        # Megatron masks the loss of this id and replaces it by 0; by default it is the tokenizer's pad token.
        self._pad_token_id = NO_ID

    def __len__(self) -> int:
        return len(self.shuffle_index)

    def _build_document_sample_shuffle_indices(self) -> tuple[np.ndarray, np.ndarray, range]:
        directory = Path(self.config.path_to_cache)
        documents = file_arrays.load(directory / order.documents_file(self.dataset_path))
        ends = file_arrays.load(directory / order.ends_file(self.dataset_path))
        # For a sequence, Megatron reads the row that the third array gives and the next one.
        return documents, ends, range(0, len(ends), 2)

    def _query_document_sample_shuffle_indices(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        # Returns all seq_length + 1 ids of a sequence, before Megatron masks padding.
        text, documents = super()._query_document_sample_shuffle_indices(idx)
        check_ids(text, self._vocab_size, self.dataset_path)
        return text, documents

    @cached_property
    def _vocab_size(self) -> int:
        return self.config.tokenizer.vocab_size  # cached: Hugging Face counts it on each access, 30 ms for Llama 3.1


class TrainingBlend(BlendedDataset):
    """Megatron's blend of training sets over our own index."""

    def _build_indices(self) -> tuple[np.ndarray, np.ndarray]:
        files = (Path(self.config.path_to_cache) / name for name in (order.DATASET_INDEX, order.DATASET_SAMPLE_INDEX))
        parts, numbers = map(file_arrays.load, files)
        return parts, numbers


def training_set(prefixes: list[str], config: GPTDatasetConfig) -> TrainingSequences | TrainingBlend:
    """Return the training set of these parts, by the index in `config.path_to_cache`."""
    parts = [
        # The index selects the documents, so none are given here.
        TrainingSequences(token_reader.opened(prefix), prefix, np.arange(0), None, Split.train, config)
        for prefix in prefixes
    ]
    return parts[0] if len(parts) == 1 else TrainingBlend(parts, [len(part) for part in parts], None, config)


class FirstSequences(Dataset):
    """The first `samples` sequences of a token file, unshuffled, padded with ignored items to `length`.

    Sequence i is tokens i * seq_length to (i + 1) * seq_length of the file, the last one only as a label, as in
    Megatron's unshuffled datasets. Items beyond `samples` fill the last batch; their loss mask and fingerprint are 0.
    `prefix` is the path of the .bin and .idx files, without extension.
    """

    def __init__(self, prefix: str | Path, seq_length: int, samples: int, length: int, vocab_size: int):
        assert length >= samples
        file = token_file.summary(prefix)
        if file.sequences(seq_length) < samples:
            raise UserError(
                f"{token_file.bin_path(file.prefix)}: holds {file.sequences(seq_length)} sequences of {seq_length} "
                f"tokens, fewer than EVAL_SAMPLES={samples}"
            )
        self.prefix = prefix
        self.seq_length = seq_length
        self.samples = samples
        self.length = length
        self.vocab_size = vocab_size
        # Documents are stored contiguously.
        self._tokens = file_arrays.one_dimensional(token_file.bin_path(file.prefix), file.token_type.name)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        is_sample = index < self.samples
        start = index * self.seq_length if is_sample else 0
        text = self._tokens[start : start + self.seq_length + 1].astype(np.int64)
        check_ids(text, self.vocab_size, self.prefix)
        return evaluated(text, is_sample=is_sample)


def evaluated(text: np.ndarray, *, is_sample: bool) -> dict[str, torch.Tensor]:
    """Return an item of an evaluation of seq_length + 1 ids; loss mask and fingerprint are 0 unless it `is_sample`."""
    ids = torch.from_numpy(text)
    length = len(text) - 1
    return {
        "tokens": ids[:-1].contiguous(),
        "labels": ids[1:].contiguous(),
        "loss_mask": torch.full((length,), float(is_sample)),
        "position_ids": torch.arange(length),
        "fingerprint": torch.tensor(fingerprint(text) if is_sample else 0),
    }
