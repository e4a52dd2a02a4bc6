"""NeMo's pre-training data module with the benchmark's order of the data."""

import math
from typing import Any

import torch
from nemo.collections.llm import PreTrainingDataModule

from llama31.data import index
from llama31.data.datasets import FirstSequences, TrainingSequences, training_set
from llama31.run_dir import startup_log


class BenchmarkData(PreTrainingDataModule):
    """Training parts blended and shuffled by seed, the beginning of one pass over them; validation as `FirstSequences`.

    Args:
        train_prefixes: Token files of the training parts, without extension.
        validation_prefix: Token file of the validation set, without extension.
        eval_samples: Sequences of one evaluation.
        index_root: Directory for training indices; see `llama31.data.index`.
        sample_limit: Training sequences to index, if the data has them.
        kwargs: As for NeMo's PreTrainingDataModule.
    """

    def __init__(
        self,
        train_prefixes: list[str],
        validation_prefix: str,
        eval_samples: int,
        index_root: str,
        sample_limit: int,
        **kwargs: Any,
    ):
        paths = {"train": train_prefixes, "validation": [validation_prefix], "test": [validation_prefix]}
        super().__init__(paths=paths, split=None, dataset_cls=TrainingSequences, **kwargs)
        # The blend holds the training parts alone: Megatron would shuffle a validation set as well.
        self.build_kwargs["blend_per_split"][1:] = [None, None]
        # NeMo creates masks where Transformer Engine is missing; no attention of ours takes one.
        self.create_attention_mask = False
        self.index_root = index_root
        self.sample_limit = sample_limit
        self.train_prefixes = train_prefixes
        self.validation_prefix = validation_prefix
        self.eval_samples = eval_samples

    def build(self, *_: Any, **__: Any) -> None:
        """Builds both datasets; collective over the ranks, of which the first builds the training index if it must.

        Raises UserError where that cannot be built, is of other data, or is not seen on all nodes.
        """
        startup_log.reached(startup_log.JOINED)
        # The first rank says where the index is, and of which parts: another node may see the files with other times.
        agreed: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            wanted = index.Index.of(
                self.index_root, self.train_prefixes, self.seq_length, self.seed, limit=self.sample_limit
            )
            index.ensure(wanted)
            agreed = [(wanted.directory, wanted.prefixes)]
        torch.distributed.broadcast_object_list(agreed)
        directory, prefixes = agreed[0]
        index.wait_for(directory)
        startup_log.reached(startup_log.INDEXED)
        self.index_mapping_dir = str(directory)
        self._train_ds = training_set(list(prefixes), self.gpt_dataset_config)
        global_batch_size = self.data_sampler.global_batch_size
        self._validation_ds = FirstSequences(
            self.validation_prefix,
            self.seq_length,
            samples=self.eval_samples,
            length=math.ceil(self.eval_samples / global_batch_size) * global_batch_size,
            vocab_size=self.tokenizer.vocab_size,
        )
        self._test_ds = None
