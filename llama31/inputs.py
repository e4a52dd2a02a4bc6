"""The data that a run reads: a quick look at its files, and what is wrong with them. Standard library alone."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama31 import paths
from llama31.corpus import token_file, tokenizer
from llama31.corpus.token_file import TokenFile
from llama31.errors import UserError
from llama31.settings import Settings

SAMPLED_IDS = 65_536  # token ids looked at, at each end of each token file


@dataclass(frozen=True)
class Data:
    """The data of a run, as far as a look at it tells."""

    train: tuple[TokenFile, ...]
    validation: TokenFile
    vocab_size: int

    def available_samples(self, seq_length: int) -> int:
        """Training sequences in one pass over all parts; Megatron cuts each part by itself."""
        return sum(part.sequences(seq_length) for part in self.train)


def look(settings: Settings, problems: list[str]) -> Data | None:
    """The run's token files and tokenizer; what is missing or does not fit goes to `problems`."""
    for name, value, example in (
        ("PREPROCESSED_PATH", settings.preprocessed_path, "the directory of the token files (.bin, .idx)"),
        ("TOKENIZER_PATH", settings.tokenizer_path, "the directory of the tokenizer"),
    ):
        if not value:
            problems.append(f"{name} is empty; set it to {example}")
        elif not Path(value).is_dir():
            problems.append(f"{name}={value}: no such directory; set it to {example}")
    files = []
    if Path(settings.preprocessed_path or "/dev/null").is_dir():
        for prefix in (*paths.train_prefixes(settings), paths.validation_prefix(settings)):
            with _collected(problems):
                files.append(token_file.summary(prefix))
    vocab_size = 0
    if Path(settings.tokenizer_path or "/dev/null").is_dir():
        with _collected(problems):
            vocab_size = tokenizer.vocabulary_size(Path(settings.tokenizer_path))
    for root, name in ((Path(settings.job_dir), "JOB_DIR"), (paths.index_root(settings), "TMP_NPY_INDEX")):
        there = next(parent for parent in (root, *root.absolute().parents) if parent.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            problems.append(f"{name}={root}: cannot be written to; name a directory that can")
    if len(files) < len(settings.train_parts.split()) + 1 or not vocab_size:
        return None
    data = Data(tuple(files[:-1]), files[-1], vocab_size)
    problems += _data_problems(settings, data)
    return data


def _data_problems(settings: Settings, data: Data) -> list[str]:
    found = []
    for file in (*data.train, data.validation):
        largest = max(*file.first_tokens(SAMPLED_IDS), *file.last_tokens(SAMPLED_IDS))
        if largest >= data.vocab_size:
            found.append(
                f"{token_file.bin_path(file.prefix)}: holds token id {largest}, but the tokenizer in "
                f"TOKENIZER_PATH={settings.tokenizer_path} has {data.vocab_size} ids; use the one that made the data"
            )
    held = data.validation.sequences(settings.seq_length)
    if settings.eval_samples > held:
        found.append(
            f"EVAL_SAMPLES={settings.eval_samples}: {token_file.bin_path(data.validation.prefix)} holds {held} "
            f"sequences of {settings.seq_length} tokens; at most {held} works"
        )
    available = data.available_samples(settings.seq_length)
    if settings.gbs > available:
        found.append(
            f"GBS={settings.gbs}: the training data holds {available} sequences of {settings.seq_length} tokens; "
            f"at most {available} works"
        )
    return found


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Within this context a UserError's lines go to `problems` instead."""
    try:
        yield
    except UserError as error:
        problems += error.lines
