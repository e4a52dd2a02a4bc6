"""Synthetic data (MOCK_DATA): a tokenizer with the benchmark's number of ids. Needs only orjson."""

from pathlib import Path

import orjson

from llama31 import rules
from llama31.common.files import failures_named
from llama31.common.json_files import write_json
from llama31.data import tokenizer

FINGERPRINT = "synthetic"  # where a run with data has the hash of its tokenizer
END_OF_TEXT = "<|end_of_text|>"


def write_tokenizer(directory: Path) -> None:
    """Write a tokenizer of decimal numbers into a new directory, in Hugging Face's format; the last id ends texts.

    Raises UserError if it cannot be written.
    """
    end = rules.VOCABULARY_SIZE - 1
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": end, "content": END_OF_TEXT, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        ],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {str(number): number for number in range(end)}, "unk_token": "0"},
    }
    with failures_named(directory):
        directory.mkdir(parents=True)
        (directory / tokenizer.TOKENIZER_FILE).write_bytes(orjson.dumps(content))
        configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "pad_token": None}
        write_json(directory / tokenizer.CONFIG_FILE, configuration)
