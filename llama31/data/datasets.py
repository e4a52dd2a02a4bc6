"""The benchmark's data order over Megatron's datasets.

Training: Megatron's GPTDataset, documents and sequences shuffled with the run's seed. Validation: the first
sequences of the validation file, in its own order, the same for every seed, batch size and layout.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset
from torch.utils.data import Dataset

from llama31.corpus import token_file
from llama31.errors import UserError


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
    """Megatron's training set, which never hands on an id that the model has no row for."""

    def _query_document_sample_shuffle_indices(self, idx: int) -> tuple[np.ndarray, np.ndarray]:
        # Megatron's own reading of a sequence, all seq_length + 1 ids, before it takes some of them for padding.
        text, documents = super()._query_document_sample_shuffle_indices(idx)
        check_ids(text, self.config.tokenizer.vocab_size, self.dataset_path)
        return text, documents


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
