"""Checks on each rank that transformers, NeMo and Megatron use the vocabulary of the plan."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from nemo.collections.common.tokenizers import AutoTokenizer

from llama31.common.errors import UserError
from llama31.config.model_sizes import embedding_rows
from llama31.data import run_tokenizer
from llama31.settings import Settings

EMBEDDINGS = ("word_embeddings.weight", "output_layer.weight")  # name endings; a pipeline rank may have neither


def load(directory: Path, source: Path) -> AutoTokenizer:
    """Load the tokenizer of a run. Raises UserError if that fails or its ids differ from the plan's.

    Args:
        directory: Tokenizer directory that `run_tokenizer` made from `source`.
        source: TOKENIZER_PATH.
    """
    with run_tokenizer.loading(source):
        loaded = AutoTokenizer(str(directory))
    run_tokenizer.check(loaded.tokenizer, source)
    return loaded


class CheckRows(Callback):
    """Raise UserError before the first step unless the model's embeddings have the planned number of rows.

    Args:
        settings: Checked settings.
        vocab_size: Number of ids of the tokenizer.
    """

    def __init__(self, settings: Settings, vocab_size: int):
        self.tensor_ranks = settings.tensor_parallel_size
        self.vocab_size = vocab_size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the rows of this rank's embeddings."""
        right = embedding_rows(self.vocab_size, self.tensor_ranks)
        for name, parameter in pl_module.named_parameters():
            if name.endswith(EMBEDDINGS) and (rows := parameter.shape[0] * self.tensor_ranks) != right:
                raise UserError(f"{name}: has {rows:,} rows, {self.vocab_size:,} ids need {right:,}")
