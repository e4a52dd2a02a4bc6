"""The recipe's data module over the tiny data, and what it reads."""

from dataclasses import replace
from pathlib import Path

import fiddle
import nemo_run as run
import numpy as np
from megatron.core.datasets.indexed_dataset import IndexedDataset
from nemo.collections.common.tokenizers import AutoTokenizer

from llama31 import recipe
from llama31.config.resolve import from_dict
from llama31.data.module import BenchmarkData
from llama31.model.device import Backend
from llama31.settings import Settings

SEQ_LENGTH = 48
CPU = Backend("cpu", transformer_engine=False)


def settings_for(data: dict[str, str], job_dir: Path) -> Settings:
    """Settings of a run on the tiny data."""
    values = {name.lower(): value for name, value in data.items()}
    return from_dict({**values, "seq_length": SEQ_LENGTH, "gbs": 8, "eval_samples": 30, "job_dir": str(job_dir)})


def built(settings: Settings, seed: int = 1) -> BenchmarkData:
    """The recipe's data module with its datasets."""
    tokenizer = run.Config(AutoTokenizer, pretrained_model_name=settings.tokenizer_path)
    module = fiddle.build(recipe.data(settings, CPU, seed, tokenizer))
    module.build()
    return module


def trained_on(settings: Settings, seed: int = 1) -> np.ndarray:
    """All training sequences in their order, [sequences, seq_length + 1]."""
    train = built(settings, seed)._train_ds
    items = [train[i] for i in range(len(train))]
    return np.stack([np.append(item["tokens"], item["labels"][-1]) for item in items])


def documents(prefix: Path) -> list[np.ndarray]:
    """Documents of a token file, by Megatron's reader; what it gives is unmapped with it, so they are copies."""
    return [document.copy() for document in IndexedDataset(str(prefix))]


def copy_of(settings: Settings, directory: Path) -> Settings:
    """The same settings for a copy of the data."""
    directory.mkdir()
    for path in Path(settings.preprocessed_path).iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return replace(settings, preprocessed_path=str(directory))
