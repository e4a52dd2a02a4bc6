"""The benchmark's data order over Megatron's datasets.

Training: Megatron's GPTDataset, documents and sequences shuffled with the run's seed. Validation: the first
sequences of the validation file, in its own order, the same for every seed, batch size and layout.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset
from torch.utils.data import Dataset

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

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(idx)
        check_ids(sample["labels"].numpy(), self.config.tokenizer.vocab_size, self.dataset_path)
        return sample


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
        self.prefix = prefix
        self.seq_length = seq_length
        self.samples = samples
        self.length = length
        self.vocab_size = vocab_size
        self._tokens = IndexedDataset(str(prefix), mmap=True)
        self._ends = np.cumsum(self._tokens.sequence_lengths, dtype=np.int64)
        if self._ends[-1] < samples * seq_length + 1:
            raise ValueError(f"{prefix} holds {self._ends[-1]} tokens, too few for {samples} sequences")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        counts = index < self.samples
        text = self._read((index if counts else 0) * self.seq_length, self.seq_length + 1)
        check_ids(text, self.vocab_size, self.prefix)
        ids = torch.from_numpy(text)
        return {
            "tokens": ids[:-1].contiguous(),
            "labels": ids[1:].contiguous(),
            "loss_mask": torch.full((self.seq_length,), float(counts)),
            "position_ids": torch.arange(self.seq_length),
            "fingerprint": torch.tensor(fingerprint(text) if counts else 0),
        }

    def _read(self, start: int, length: int) -> np.ndarray:
        """Tokens start to start + length of the file, as int64, across the borders of its documents."""
        parts = []
        document = int(np.searchsorted(self._ends, start, side="right"))
        while length:
            offset = start - (self._ends[document] - self._tokens.sequence_lengths[document])
            part = self._tokens.get(document, offset=int(offset), length=int(min(length, self._ends[document] - start)))
            parts.append(part)
            start, length, document = start + len(part), length - len(part), document + 1
        return np.concatenate(parts).astype(np.int64)
