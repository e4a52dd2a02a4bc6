"""Data of the benchmark's size for plans, in sparse files."""

import json
import struct
from pathlib import Path

from llama31 import rules
from llama31.data.token_file import HEADER, MAGIC, VERSION, TokenType, bin_path, idx_path


def claim_tokens(prefix: Path, documents: int, tokens: int) -> None:
    """Write a sparse token file of any size: only the ends of its index are written, its ids are zeros."""
    token_type = TokenType.int32
    with open(bin_path(prefix), "wb") as file:
        file.truncate(tokens * token_type.itemsize)
    pointers = HEADER.size + 4 * documents
    with open(idx_path(prefix), "wb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, token_type.code, documents, documents + 1))
        file.seek(pointers - 4)
        file.write(struct.pack("<i", 1))  # tokens of the last document
        file.seek(pointers + 8 * (documents - 1))
        file.write(struct.pack("<q", (tokens - 1) * token_type.itemsize))
        file.seek(pointers + 8 * (2 * documents + 1) - 8)
        file.write(struct.pack("<q", documents))


def claim_benchmark_data(directory: Path) -> dict[str, str]:
    """Files with the outer dimensions of the benchmark's (part 6: as in MLCommons' download)."""
    preprocessed, tokenizer = directory / "preprocessed", directory / "tokenizer"
    preprocessed.mkdir()
    tokenizer.mkdir()
    for part in rules.BENCHMARK_PARTS:
        prefix = preprocessed / rules.token_file_name(rules.train_part_name(part))
        claim_tokens(prefix, rules.PART_6_DOCUMENTS, rules.PART_6_TOKENS)
    validation = preprocessed / rules.token_file_name(rules.validation_name(rules.VALIDATION_DOCUMENTS))
    claim_tokens(validation, rules.VALIDATION_DOCUMENTS, rules.VALIDATION_TOKENS)
    vocabulary = {f"token{i}": i for i in range(rules.VOCABULARY_SIZE)}
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"eos_token": "token1"}))
    return {"PREPROCESSED_PATH": str(preprocessed), "TOKENIZER_PATH": str(tokenizer)}
