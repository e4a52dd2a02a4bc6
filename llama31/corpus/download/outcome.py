"""Check of a finished download, and the command to run next."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from llama31 import rules
from llama31.common.errors import UserError
from llama31.data.token_file import TokenFile, idx_path, summary
from llama31.data.tokenizer import TOKENIZER_FILE, vocabulary_size

PATHS = {"preprocessed": "PREPROCESSED_PATH", "tokenizer": "TOKENIZER_PATH", "raw": "C4_PATH"}
"""Set -> environment variable of its directory."""


def check(what: str, directory: Path, environment: Mapping[str, str]) -> list[str]:
    """Check that a downloaded set is complete; return lines to print. Raises UserError if it is not."""
    if what not in PATHS:
        return []
    found = []
    if what == "preprocessed":
        found = [_described(_as_published(directory / name)) for name in rules.KNOWN_COUNTS]
    if what == "tokenizer":
        found = [f"{directory}: a vocabulary of {vocabulary_size(directory):,}"]
    paths = {name: environment.get(name, "") for name in PATHS.values()} | {PATHS[what]: str(directory)}
    return [*found, f"next: {_next_command(what, paths)}"]


def _as_published(prefix: Path) -> TokenFile:
    file, known = summary(prefix), rules.KNOWN_COUNTS[prefix.name]
    if (file.documents, file.tokens) != (known.documents, known.tokens):
        raise UserError(
            f"{idx_path(prefix)}: {file.documents:,} documents of {file.tokens:,} tokens,"
            f" MLCommons' has {known.documents:,} of {known.tokens:,}"
        )
    return file


def _described(file: TokenFile) -> str:
    return f"{file.prefix}: {file.documents:,} documents, {file.tokens:,} tokens, as published"


def _next_command(what: str, paths: Mapping[str, str]) -> str:
    c4, preprocessed, tokenizer = (paths[PATHS[name]] for name in ("raw", "preprocessed", "tokenizer"))
    if what == "raw":
        script = "parallel_compress_json_to_gz.sh" if any(Path(c4).glob("c4-*.json")) else "consolidate_data.sh"
        return f"{_assigned('C4_PATH', c4)} bash utils/{script}"
    part = rules.token_file_name(rules.train_part_name(rules.PUBLISHED_PART))
    missing = ""
    if not preprocessed or not idx_path(Path(preprocessed) / part).exists():
        missing = "preprocessed"
    elif not tokenizer or not (Path(tokenizer) / TOKENIZER_FILE).exists():
        missing = "tokenizer"
    if missing:
        return f"{_assigned(PATHS[missing], paths[PATHS[missing]])} bash utils/download_data.sh {missing}"
    assignments = [_assigned(PATHS[name], paths[PATHS[name]]) for name in ("preprocessed", "tokenizer")]
    return " ".join(["bash run_llama31.sh --dryrun", f"TRAIN_PARTS={rules.PUBLISHED_PART}", *assignments])


def _assigned(name: str, directory: str) -> str:
    return f"{name}={shlex.quote(directory or 'DIRECTORY')}"
