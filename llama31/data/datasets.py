"""The benchmark's data order over Megatron's datasets.

Training: Megatron's GPTDataset and BlendedDataset, documents and sequences shuffled with the run's seed, read from an
index of ours. Validation: the first sequences of the validation file, in its own order, the same for every seed, batch
size and layout.
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
from llama31.data import order, token_file

NO_ID = -1


def fingerprint(tokens: np.ndarray) -> int:
    """Fingerprint of one sequence's token ids: the first 8 bytes of SHA-256 over them as little-endian int64.

    Fingerprints are added modulo 2^64: the sum over an evaluation says which sequences it saw and how often, in
    whatever order and on whichever ranks.
    """
    digest = hashlib.sha256(tokens.astype("<i8").tobytes()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def check_ids(tokens: np.ndarray, vocab_size: int, source: str | Path) -> None:
    """Raises UserError when `tokens` holds an id that the tokenizer does not have."""
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        found = tokens.min() if tokens.min() < 0 else tokens.max()
        raise UserError(
            f"{source}: holds token id {found}, but the tokenizer's vocabulary has {vocab_size} ids; "
            "set TOKENIZER_PATH to the tokenizer that the data was made with"
        )


class TrainingSequences(GPTDataset):
    """Megatron's training set over an index of ours; it never hands on an id that the model has no row for.

    Every id of a sequence is trained on: the data has no padding, so the tokenizer's id for it may be one of a text.
    """

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        # Megatron takes no loss at this id and replaces it by 0; it takes the tokenizer's pad token where there is one.
        self._pad_token_id = NO_ID

    def __len__(self) -> int:
        return len(self.shuffle_index)

    def _build_document_sample_shuffle_indices(self) -> tuple[np.ndarray, np.ndarray, range]:
        directory = Path(self.config.path_to_cache)
        documents = np.load(directory / order.documents_file(self.dataset_path), mmap_mode="r")
        ends = np.load(directory / order.ends_file(self.dataset_path), mmap_mode="r")
        # Of a sequence, Megatron reads the row that the third says and the one after it.
        return documents, ends, range(0, len(ends), 2)

    def _query_document_sample_shuffle_indices(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        # Megatron's own reading of a sequence, all seq_length + 1 ids, before it takes some of them for padding.
        text, documents = super()._query_document_sample_shuffle_indices(idx)
        check_ids(text, self._vocab_size, self.dataset_path)
        return text, documents

    @cached_property
    def _vocab_size(self) -> int:
        return self.config.tokenizer.vocab_size  # which Hugging Face's counts anew each time: Llama 3.1's in 30 ms


class TrainingBlend(BlendedDataset):
    """Megatron's blend of training sets over an index of ours."""

    def _build_indices(self) -> tuple[np.ndarray, np.ndarray]:
        directory = Path(self.config.path_to_cache)
        return (
            np.load(directory / order.DATASET_INDEX, mmap_mode="r"),
            np.load(directory / order.DATASET_SAMPLE_INDEX, mmap_mode="r"),
        )


def training_set(prefixes: list[str], config: GPTDatasetConfig) -> TrainingSequences | TrainingBlend:
    """The training sequences of these parts, by the index in `config.path_to_cache`."""
    parts = [
        # Which documents to take says the index, so none are named here.
        TrainingSequences(
            GPTDataset.build_low_level_dataset(prefix, config), prefix, np.arange(0), None, Split.train, config
        )
        for prefix in prefixes
    ]
    return parts[0] if len(parts) == 1 else TrainingBlend(parts, [len(part) for part in parts], None, config)


class FirstSequences(Dataset):
    """The first `samples` sequences of a token file, unshuffled, padded by ignored ones to `length`.

    Sequence i is tokens i * seq_length to (i + 1) * seq_length of the file, the last one as a label alone, as
    Megatron cuts an unshuffled file. Items beyond `samples` fill the last batch: their loss mask is 0 and their
    fingerprint is 0, so they count nowhere.

    Args:
        prefix: Path of the .bin and .idx files, without extension.
        seq_length: Tokens in a sequence.
        samples: Sequences that count.
        length: Items in all, at least `samples`.
        vocab_size: Ids of the tokenizer.
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
        # Documents lie in the file one after another.
        self._tokens = np.memmap(token_file.bin_path(file.prefix), dtype=file.token_type.name, mode="r")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        counts = index < self.samples
        start = index * self.seq_length if counts else 0
        text = self._tokens[start : start + self.seq_length + 1].astype(np.int64)
        check_ids(text, self.vocab_size, self.prefix)
        ids = torch.from_numpy(text)
        return {
            "tokens": ids[:-1].contiguous(),
            "labels": ids[1:].contiguous(),
            "loss_mask": torch.full((self.seq_length,), float(counts)),
            "position_ids": torch.arange(self.seq_length),
            "fingerprint": torch.tensor(fingerprint(text) if counts else 0),
        }
