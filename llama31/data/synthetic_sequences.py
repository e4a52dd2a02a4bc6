"""Sequences of random ids, to see what a run takes without reading data."""

import numpy as np
import torch
from torch.utils.data import Dataset

from llama31.data.datasets import evaluated

VALIDATION_KEY = 1 << 32  # no seed is that large, so no training sequence is validated on


class SyntheticSequences(Dataset):
    """`length` sequences of uniformly random ids; the same for the same key.

    With `samples` they are of an evaluation, as `FirstSequences`: items beyond that number fill the last batch.
    """

    def __init__(self, length: int, seq_length: int, vocab_size: int, key: int, samples: int | None = None):
        self.length = length
        self.seq_length = seq_length
        self.vocab_size = vocab_size
        self.key = key
        self.samples = samples

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        random = np.random.Generator(np.random.Philox(key=[self.key, index]))
        text = random.integers(self.vocab_size, size=self.seq_length + 1)
        if self.samples is not None:
            return evaluated(text, is_sample=index < self.samples)
        ids = torch.from_numpy(text)
        return {
            "tokens": ids[:-1],
            "labels": ids[1:],
            "loss_mask": torch.ones(self.seq_length),
            "position_ids": torch.arange(self.seq_length),
        }
