"""Make token files of random tokens and a tokenizer with as many ids, for benches that need no text."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models

from llama31 import rules
from llama31.corpus.token_writer import TokenWriter
from llama31.data.token_file import TokenType

DOCUMENT = 500  # tokens per document, about C4's mean
VALIDATION_DOCUMENTS = 100


def make(directory: Path, vocabulary: int, tokens: int) -> dict[str, str]:
    """Write tokenizer and token files to an empty directory; return the settings that name them.

    Args:
        directory: Gets tokenizer/ and preprocessed/.
        vocabulary: Number of ids of the tokenizer.
        tokens: Approximate number of tokens in the training part.
    """
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocabulary)}, unk_token="w0"))
    (directory / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w0"}
    (directory / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(configuration))
    (part, *_) = rules.BENCHMARK_PARTS
    preprocessed = directory / "preprocessed"
    write(preprocessed / rules.token_file_name(rules.train_part_name(part)), vocabulary, tokens // DOCUMENT)
    validation = rules.token_file_name(rules.validation_name(VALIDATION_DOCUMENTS))
    write(preprocessed / validation, vocabulary, VALIDATION_DOCUMENTS)
    return {
        "PREPROCESSED_PATH": str(preprocessed),
        "TOKENIZER_PATH": str(directory / "tokenizer"),
        "N_VALIDATION_SAMPLES": str(VALIDATION_DOCUMENTS),
        "TRAIN_PARTS": str(part),
    }


def write(prefix: Path, vocabulary: int, documents: int) -> None:
    """Write a .bin/.idx pair."""
    token_type = TokenType.for_vocabulary(vocabulary)
    random = np.random.default_rng(0)
    with TokenWriter(prefix, token_type) as writer:
        for _ in range(documents):
            ids = random.integers(vocabulary, size=DOCUMENT).astype(token_type.name)
            writer.write(ids.tobytes(), np.array([DOCUMENT], "<i4").tobytes())
