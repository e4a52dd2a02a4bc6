"""NeMo's pre-training data module with the benchmark's order of the data."""

import math
from pathlib import Path
from typing import Any

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from nemo.collections.llm import PreTrainingDataModule

from llama31.data.datasets import FirstSequences, TrainingSequences
from llama31.data.index import identity


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
        """Builds both datasets; collective over the ranks, the first one writes the training index."""
        self.index_mapping_dir = str(Path(self.index_root) / identity(self.train_prefixes))
        sizes = [None, 0, 0]  # None: as many samples as the data has, each once
        self._train_ds, _, _ = BlendedMegatronDatasetBuilder(
            self.dataset_cls, sizes, is_built_on_rank=lambda: True, config=self.gpt_dataset_config
        ).build()
        global_batch_size = self.data_sampler.global_batch_size
        self._validation_ds = FirstSequences(
            self.validation_prefix,
            self.seq_length,
            samples=self.eval_samples,
            length=math.ceil(self.eval_samples / global_batch_size) * global_batch_size,
            vocab_size=self.tokenizer.vocab_size,
        )
        self._test_ds = None
