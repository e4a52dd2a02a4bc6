"""Small real data for tests: sentences of the standard library's sources, a tokenizer trained on them, token files."""

import json
import shutil
from array import array
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dev.support.docstrings import docstrings
from llama31 import rules
from llama31.corpus.token_writer import TokenWriter
from llama31.data.token_file import TokenType

MODULES = (
    "argparse",
    "difflib",
    "doctest",
    "inspect",
    "pathlib",
    "pickle",
    "random",
    "statistics",
    "tarfile",
    "typing",
)
VOCABULARY = 512
VALIDATION_DOCUMENTS = 40
WEIGHTS_BESIDE = "model-00001-of-00001.safetensors"


def texts() -> list[str]:
    """Docstrings of a few modules of the standard library, in the order of their sources."""
    return docstrings(MODULES)


def make_tokenizer(directory: Path, vocabulary: int = VOCABULARY) -> Path:
    """Saves a byte-level BPE tokenizer in Hugging Face's format."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[1]}
    (directory / "tokenizer_config.json").write_text(json.dumps(configuration))
    return directory


def as_downloaded(tokenizer: Path, directory: Path) -> Path:
    """A copy of a tokenizer as a download of a model leaves it: beside weights and directories."""
    shutil.copytree(tokenizer, directory)
    (directory / WEIGHTS_BESIDE).write_bytes(bytes(1_000_000))
    (directory / ".cache" / "huggingface").mkdir(parents=True)
    return directory


def write_tokens(prefix: Path, documents: list[list[int]], vocabulary: int = VOCABULARY) -> Path:
    """Writes documents of token ids as a .bin/.idx pair."""
    token_type = TokenType.for_vocabulary(vocabulary)
    with TokenWriter(prefix, token_type) as writer:
        for ids in documents:
            writer.write(array(token_type.typecode, ids).tobytes(), array("i", [len(ids)]).tobytes())
    return prefix


def make_data(directory: Path) -> dict[str, str]:
    """Tokenizer, two training parts and a validation set; return the settings that name them."""
    tokenizer_path = make_tokenizer(directory / "tokenizer")
    tokenizer = Tokenizer.from_file(str(tokenizer_path / "tokenizer.json"))
    documents = [encoding.ids for encoding in tokenizer.encode_batch(texts(), add_special_tokens=False)]
    order = np.random.default_rng(0).permutation(len(documents))
    documents = [documents[i] for i in order]
    preprocessed = directory / "preprocessed"
    validation, training = documents[:VALIDATION_DOCUMENTS], documents[VALIDATION_DOCUMENTS:]
    write_tokens(preprocessed / rules.token_file_name(rules.validation_name(VALIDATION_DOCUMENTS)), validation)
    half = len(training) // 2
    for part, share in zip(rules.BENCHMARK_PARTS, (training[:half], training[half:]), strict=True):
        write_tokens(preprocessed / rules.token_file_name(rules.train_part_name(part)), share)
    return {
        "PREPROCESSED_PATH": str(preprocessed),
        "TOKENIZER_PATH": str(tokenizer_path),
        "N_VALIDATION_SAMPLES": str(VALIDATION_DOCUMENTS),
    }


def make_ids_beyond_the_vocabulary(directory: Path) -> dict[str, str]:
    """Token files with such ids where a look at their ends does not find them; return the settings that name them."""
    ids = np.random.default_rng(0).integers(VOCABULARY, size=400_000)
    ids[150_000:250_000] = VOCABULARY + 7
    part = rules.BENCHMARK_PARTS[0]
    documents = [document.tolist() for document in np.split(ids, 4000)]
    write_tokens(directory / rules.token_file_name(rules.train_part_name(part)), documents)
    validation = rules.token_file_name(rules.validation_name(VALIDATION_DOCUMENTS))
    write_tokens(directory / validation, [ids[:20_000].tolist()])
    return {"PREPROCESSED_PATH": str(directory), "TRAIN_PARTS": str(part)}
