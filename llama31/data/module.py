"""NeMo's pre-training data module with the benchmark's data order, or with synthetic tokens."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from nemo.collections.llm import PreTrainingDataModule

from llama31.data import index_sharing
from llama31.data.datasets import FirstSequences, TrainingSequences, training_set
from llama31.data.index import Index
from llama31.data.synthetic_sequences import VALIDATION_KEY, SyntheticSequences
from llama31.run_dir import startup_log


class _Data(PreTrainingDataModule):
    """What both kinds of data share. Arguments are NeMo's."""

    def __init__(self, eval_samples: int, sample_limit: int, **kwargs: Any):
        super().__init__(**kwargs)
        # Without Transformer Engine NeMo would create masks, which our attention does not use.
        self.create_attention_mask = False
        self.eval_samples = eval_samples
        self.sample_limit = sample_limit
        self._test_ds = None

    @property
    def eval_length(self) -> int:
        """Sequences of an evaluation, with those that fill its last batch."""
        batch = self.data_sampler.global_batch_size
        return math.ceil(self.eval_samples / batch) * batch


class BenchmarkData(_Data):
    """Training parts blended and shuffled by seed, for up to one pass; validation as `FirstSequences`.

    Prefixes are of token files, without extension. At most `sample_limit` training sequences are indexed, in the
    directory `index_root` (see `llama31.data.index`). With `copies`, the training parts are read from the files of the
    same names in that directory. Other arguments are those of NeMo's PreTrainingDataModule.
    """

    def __init__(
        self, train_prefixes: list[str], validation_prefix: str, index_root: str, copies: str = "", **kwargs: Any
    ):
        paths = {"train": train_prefixes, "validation": [validation_prefix], "test": [validation_prefix]}
        super().__init__(paths=paths, split=None, dataset_cls=TrainingSequences, **kwargs)
        # Only the training parts are blended: Megatron would shuffle a validation set too.
        self.build_kwargs["blend_per_split"][1:] = [None, None]
        self.index_root = index_root
        self.copies = copies
        self.train_prefixes = train_prefixes
        self.validation_prefix = validation_prefix

    def build(self, *_: Any, **__: Any) -> None:
        """Build both datasets; collective. Rank 0 builds the training index if necessary.

        Raises UserError if the index cannot be built, is of other data, or cannot be brought to all nodes.
        """
        startup_log.reached(startup_log.JOINED)
        wanted = None
        if torch.distributed.get_rank() == 0:
            parts, limit = self.train_prefixes, self.sample_limit
            wanted = Index.of(self.index_root, parts, self.seq_length, self.seed, limit=limit)
        directory, prefixes = index_sharing.ensure(wanted)
        startup_log.reached(startup_log.INDEXED)
        self.index_mapping_dir = str(directory)
        read = [str(Path(self.copies) / Path(prefix).name) if self.copies else prefix for prefix in prefixes]
        self._train_ds = training_set(read, self.gpt_dataset_config)
        self._validation_ds = FirstSequences(
            self.validation_prefix,
            self.seq_length,
            samples=self.eval_samples,
            length=self.eval_length,
            vocab_size=self.tokenizer.vocab_size,
        )


class SyntheticData(_Data):
    """Uniformly random ids. Arguments are those of NeMo's PreTrainingDataModule, without paths."""

    def __init__(self, **kwargs: Any):
        super().__init__(paths=[os.devnull], **kwargs)  # NeMo requires a path that exists; nothing is read from it

    def build(self, *_: Any, **__: Any) -> None:
        """Build both datasets."""
        startup_log.reached(startup_log.JOINED)
        length, vocabulary = self.seq_length, self.tokenizer.vocab_size
        self._train_ds = SyntheticSequences(self.sample_limit, length, vocabulary, self.seed)
        self._validation_ds = SyntheticSequences(
            self.eval_length, length, vocabulary, VALIDATION_KEY, samples=self.eval_samples
        )
        startup_log.reached(startup_log.INDEXED)
