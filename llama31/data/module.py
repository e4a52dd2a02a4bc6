"""NeMo's pre-training data module with the benchmark's order of the data."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from nemo.collections.llm import PreTrainingDataModule
from torch.utils.data import Dataset

from llama31.data import index
from llama31.data.datasets import FirstSequences, TrainingSequences


class BenchmarkData(PreTrainingDataModule):
    """Training parts blended and shuffled by seed, one pass over all of them; validation as `FirstSequences`.

    Args:
        train_prefixes: Token files of the training parts, without extension.
        validation_prefix: Token file of the validation set, without extension.
        eval_samples: Sequences of one evaluation.
        index_root: Directory for training indices; see `llama31.data.index`.
        kwargs: As for NeMo's PreTrainingDataModule.
    """

    def __init__(
        self, train_prefixes: list[str], validation_prefix: str, eval_samples: int, index_root: str, **kwargs: Any
    ):
        paths = {"train": train_prefixes, "validation": [validation_prefix], "test": [validation_prefix]}
        super().__init__(paths=paths, split=None, dataset_cls=TrainingSequences, **kwargs)
        # The blend holds the training parts alone: Megatron would shuffle a validation set as well.
        self.build_kwargs["blend_per_split"][1:] = [None, None]
        # NeMo creates masks where Transformer Engine is missing; no attention of ours takes one.
        self.create_attention_mask = False
        self.index_root = index_root
        self.train_prefixes = train_prefixes
        self.validation_prefix = validation_prefix
        self.eval_samples = eval_samples

    def build(self, *_: Any, **__: Any) -> None:
        """Builds both datasets; collective over the ranks, of which the first writes the training index if it must.

        Raises UserError where that cannot be written.
        """
        first = torch.distributed.get_rank() == 0
        # What the first rank sees holds for all: another node may see the files with other times.
        agreed: list[Any] = [None, None]
        if first:
            directory = index.location(self.index_root, self.train_prefixes, self.seq_length, self.seed)
            agreed = [directory, directory.is_dir()]
        torch.distributed.broadcast_object_list(agreed)
        directory, is_there = agreed
        if not is_there:
            with index.building(directory) if first else nullcontext(directory) as partial:
                self._training_sequences(partial, is_built_on_rank=lambda: first)
            torch.distributed.barrier()
        self._train_ds = self._training_sequences(directory, is_built_on_rank=lambda: True)
        global_batch_size = self.data_sampler.global_batch_size
        self._validation_ds = FirstSequences(
            self.validation_prefix,
            self.seq_length,
            samples=self.eval_samples,
            length=math.ceil(self.eval_samples / global_batch_size) * global_batch_size,
            vocab_size=self.tokenizer.vocab_size,
        )
        self._test_ds = None

    def _training_sequences(self, directory: Path, is_built_on_rank: Callable[[], bool]) -> Dataset | None:
        """The training set with its index in `directory`, where Megatron writes it if it is not there."""
        self.index_mapping_dir = str(directory)
        sizes = [None, 0, 0]  # None: as many samples as the data has, each once
        train, _, _ = BlendedMegatronDatasetBuilder(
            self.dataset_cls, sizes, is_built_on_rank, config=self.gpt_dataset_config
        ).build()
        return train
