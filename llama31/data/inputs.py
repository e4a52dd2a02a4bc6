"""The data that a run reads: a quick look at its files, and what is wrong with them. Standard library and orjson."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import can_be_created, failures_named
from llama31.config import devices, paths
from llama31.data import token_file, token_manifest, tokenizer
from llama31.data.token_file import TokenFile, bin_path, idx_path
from llama31.settings import Settings

SAMPLED_IDS = 65_536  # token ids looked at, at each end of a token file without a manifest


@dataclass(frozen=True)
class Data:
    """The data of a run, as far as a look at it tells."""

    train: tuple[TokenFile, ...]
    validation: TokenFile
    vocab_size: int

    def available_samples(self, seq_length: int) -> int:
        """Training sequences in one pass over all parts; Megatron cuts each part by itself."""
        return sum(part.sequences(seq_length) for part in self.train)

    def skipped_parts(self, seq_length: int) -> list[TokenFile]:
        """Training parts that hold no whole sequence; training runs as if TRAIN_PARTS did not name them."""
        return [part for part in self.train if not part.sequences(seq_length)]

    def indexed_samples(self, settings: Settings) -> int:
        """Training sequences that a run can take: those that its index holds."""
        return min(settings.sample_limit, self.available_samples(settings.seq_length))


def skipped_lines(settings: Settings, data: Data) -> Iterator[str]:
    """Yield a line for each training part that the run skips."""
    length = settings.seq_length
    for part in data.skipped_parts(length):
        yield (
            f"{bin_path(part.prefix)}: skipped: a sequence of SEQ_LENGTH={length} takes {length + 1:,} tokens, it has "
            f"{part.tokens:,}; the order of the other parts is the same as without it in TRAIN_PARTS"
        )


def vocab_size(settings: Settings, data: Data | None) -> int | None:
    """Ids of the run's tokenizer; without a look at it, those of the benchmark's if the model is the benchmark's."""
    if data:
        return data.vocab_size
    return rules.VOCABULARY_SIZE if settings.size == rules.SIZE else None


def look(settings: Settings) -> tuple[Data | None, list[str]]:
    """The run's token files and tokenizer, and what is wrong, a line each. Without usable files there is no Data."""
    found: list[str] = []
    files, vocab_size = _token_files(settings, found), _vocabulary_size(settings, found)
    if not found:
        with _collected(found):
            _check_ids(settings, files, vocab_size)
    data = None if found else Data(tuple(files[:-1]), files[-1], vocab_size)
    written = {"JOB_DIR": Path(settings.job_dir), "TMP_NPY_INDEX": paths.index_root(settings)}
    for name, directory in () if devices.is_through_ssh(settings) else written.items():
        if not can_be_created(directory):
            found.append(f"{name}={directory}: cannot be written to; name a directory that can")
    return data, found


def _token_files(settings: Settings, found: list[str]) -> list[TokenFile]:
    """Training parts and, last, the validation set."""
    files: list[TokenFile] = []
    if not _is_directory("PREPROCESSED_PATH", settings.preprocessed_path, "the token files (.bin, .idx)", found):
        return files
    with _collected(found):
        found += _absent(settings)
    for prefix in (*paths.train_prefixes(settings), paths.validation_prefix(settings)):
        if idx_path(prefix).exists():
            with _collected(found):
                files.append(token_file.summary(prefix))
    return files


def _absent(settings: Settings) -> Iterator[str]:
    """A line for training parts, and one for the validation set, that are not there, with what is."""
    directory = Path(settings.preprocessed_path)
    for name, value, name_of in (
        ("TRAIN_PARTS", settings.train_parts, rules.train_part_name),
        ("N_VALIDATION_SAMPLES", str(settings.n_validation_samples), rules.validation_name),
    ):
        wanted, there = [int(number) for number in value.split()], _numbers_in(directory, name_of)
        absent = [number for number in wanted if number not in there]
        if absent:
            usable = " ".join(str(number) for number in [n for n in wanted if n in there] or there[:1])
            works = f"{name}={usable} works" if usable else "python3 -m llama31 tokenize makes it"
            yield f"{name}={value}: no {idx_path(directory / rules.token_file_name(name_of(absent[0])))}; {works}"


def _numbers_in(directory: Path, name_of: Callable[[int], str]) -> list[int]:
    """All n for which the directory holds the index of token file `name_of(n)`."""
    pattern = re.compile(re.escape(idx_path(Path(rules.token_file_name(name_of(0)))).name).replace("0", "([0-9]+)"))
    with failures_named(directory):
        return sorted(int(match[1]) for file in directory.iterdir() if (match := pattern.fullmatch(file.name)))


def _vocabulary_size(settings: Settings, found: list[str]) -> int:
    """Ids of a tokenizer that a run can use, by what its files say."""
    directory = settings.tokenizer_path
    if not _is_directory("TOKENIZER_PATH", directory, "a tokenizer in Hugging Face's format", found):
        return 0
    size = 0
    with _collected(found):
        size = tokenizer.vocabulary_size(directory)
        for line in tokenizer.problems(directory):
            found.append(f"TOKENIZER_PATH={directory}: {line.removeprefix(str(Path(directory))).lstrip('/: ')}")
        if not any((Path(directory) / file).is_file() for file in (tokenizer.CONFIG_FILE, "config.json")):
            found.append(f"TOKENIZER_PATH={directory}: holds no tokenizer_config.json; copy it from the same tokenizer")
        elif not {"eos_token", "sep_token"} & tokenizer.named_tokens(directory).keys():
            found.append(
                f"TOKENIZER_PATH={directory}: tokenizer_config.json names no eos_token; add the end-of-text token"
            )
    return size


def _check_ids(settings: Settings, files: Sequence[TokenFile], vocab_size: int) -> None:
    """Raises UserError for the first token file whose ids are not those of the tokenizer."""
    for file in files:
        path = bin_path(file.prefix)
        made = token_manifest.read(file.prefix)
        if made and (made.documents, made.tokens) != (file.documents, file.tokens):
            raise UserError(
                f"{token_manifest.manifest_path(file.prefix)}: is of {made.tokens:,} tokens in {made.documents:,} "
                f"documents, {path.name} holds {file.tokens:,} in {file.documents:,}; remove it if the data "
                "was not made here"
            )
        if made and made.tokenizer_sha256 not in tokenizer.hashes(settings.tokenizer_path):
            here = tokenizer.fingerprint(settings.tokenizer_path)
            raise UserError(
                f"TOKENIZER_PATH={settings.tokenizer_path}: {path} was made with another tokenizer (SHA-256 of "
                f"tokenizer.json {made.tokenizer_sha256[:12]}..., here {here[:12]}...); use that one"
            )
        if made and made.append_eod:
            raise UserError(
                f"{path}: was made with --append-eod; the benchmark's data has no end-of-text tokens: tokenise it "
                "without, to a new PREPROCESSED_PATH"
            )
        ids = [0, made.largest_id] if made else [*file.first_tokens(SAMPLED_IDS), *file.last_tokens(SAMPLED_IDS)]
        strange = min(ids) if min(ids) < 0 else max(ids)
        if not 0 <= strange < vocab_size:
            raise UserError(
                f"TOKENIZER_PATH={settings.tokenizer_path}: has {vocab_size:,} ids, but {path} holds id {strange}; "
                "use the tokenizer that made the data"
            )


def _is_directory(name: str, value: str, of: str, found: list[str]) -> bool:
    """Whether a setting names a directory; if not, a line says so."""
    if value and os.path.isdir(value):  # noqa: PTH112 - unlike Path's, this never raises
        return True
    wrong = f"{name}={value}: no such directory" if value else f"{name} is empty"
    found.append(f"{wrong}; set it to the directory of {of}")
    return False


@contextlib.contextmanager
def _collected(found: list[str]) -> Iterator[None]:
    """Within this context a UserError's lines go to `found` instead."""
    try:
        yield
    except UserError as error:
        found += error.lines
