"""Quick check of a run's token files and tokenizer. Needs only orjson."""

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
from llama31.data import node_copy, token_file, token_manifest, tokenizer
from llama31.data.token_file import TokenFile, TokenType, bin_path, idx_path
from llama31.settings import Settings

SAMPLED_IDS = 65_536  # token ids checked at each end of a token file without a manifest


@dataclass(frozen=True)
class Data:
    """Token files and vocabulary size of a run."""

    train: tuple[TokenFile, ...]
    validation: TokenFile
    vocab_size: int

    def available_samples(self, seq_length: int) -> int:
        """Return the training sequences in one pass over all parts; Megatron cuts each part separately."""
        return sum(part.sequences(seq_length) for part in self.train)

    def skipped_parts(self, seq_length: int) -> list[TokenFile]:
        """Return training parts without a whole sequence; training ignores them."""
        return [part for part in self.train if not part.sequences(seq_length)]

    def indexed_samples(self, settings: Settings) -> int:
        """Return the training sequences in the run's index."""
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
    """Return the vocabulary size; without data, the benchmark's if SIZE is the benchmark's, else None."""
    if data:
        return data.vocab_size
    return rules.VOCABULARY_SIZE if settings.size == rules.SIZE else None


def synthetic(settings: Settings) -> Data:
    """Return the data of MOCK_DATA: as many tokens as the benchmark's files have, in none."""

    def file(name: str, documents: int, tokens: int) -> TokenFile:
        return TokenFile(Path(f"synthetic {name}"), documents, documents, tokens, TokenType.int32)

    parts = len(settings.train_parts.split())
    documents = settings.n_validation_samples
    tokens = rules.VALIDATION_TOKENS * documents // rules.VALIDATION_DOCUMENTS
    train = file("training tokens", parts * rules.PART_6_DOCUMENTS, parts * rules.PART_6_TOKENS)
    return Data((train,), file("validation tokens", documents, tokens), rules.VOCABULARY_SIZE)


def read_headers(settings: Settings, vocab_size: int) -> Data:
    """Return the data from the headers of its files, without further checks. Raises UserError for damaged ones."""
    if settings.mock_data:
        return synthetic(settings)
    prefixes = (*paths.train_prefixes(settings), paths.validation_prefix(settings))
    *train, validation = map(token_file.summary, prefixes)
    return Data(tuple(train), validation, vocab_size)


def inspect(settings: Settings) -> tuple[Data | None, list[str]]:
    """Check files to read and directories to write. Return the data, None if unusable, and a line for each problem."""
    problems: list[str] = []
    data = synthetic(settings) if settings.mock_data else _read(settings, problems)
    outputs = {"JOB_DIR": Path(settings.job_dir), "TMP_NPY_INDEX": paths.index_root(settings)}
    if settings.tmp_npy_index and devices.is_elsewhere(settings):
        del outputs["TMP_NPY_INDEX"]  # it may be on the nodes' own disks; the job checks it
    for name, directory in () if devices.is_through_ssh(settings) else outputs.items():
        if not can_be_created(directory):
            problems.append(f"{name}={directory}: not writable; choose another directory")
    if settings.copy_data_to and data and not devices.is_elsewhere(settings):
        problems += node_copy.problems(settings)
    return data, problems


def _read(settings: Settings, problems: list[str]) -> Data | None:
    """Return the data that the settings name; None, with lines in `problems`, if it is unusable."""
    files, vocab_size = _token_files(settings, problems), _vocabulary_size(settings, problems)
    if not problems:
        with _collecting(problems):
            _check_ids(settings, files, vocab_size)
    return None if problems else Data(tuple(files[:-1]), files[-1], vocab_size)


def _token_files(settings: Settings, problems: list[str]) -> list[TokenFile]:
    """Return the token files of the training parts and, last, the validation set."""
    files: list[TokenFile] = []
    if not _is_directory("PREPROCESSED_PATH", settings.preprocessed_path, "the token files (.bin, .idx)", problems):
        return files
    with _collecting(problems):
        problems += _missing(settings)
    for prefix in (*paths.train_prefixes(settings), paths.validation_prefix(settings)):
        if idx_path(prefix).exists():
            with _collecting(problems):
                files.append(token_file.summary(prefix))
    return files


def _missing(settings: Settings) -> Iterator[str]:
    """Yield a line if training parts are missing, and one if the validation set is, with values that would work."""
    directory = Path(settings.preprocessed_path)
    for name, value, name_of in (
        ("TRAIN_PARTS", settings.train_parts, rules.train_part_name),
        ("N_VALIDATION_SAMPLES", str(settings.n_validation_samples), rules.validation_name),
    ):
        wanted, existing = [int(number) for number in value.split()], _numbers_in(directory, name_of)
        if missing := [number for number in wanted if number not in existing]:
            usable = " ".join(str(number) for number in [n for n in wanted if n in existing] or existing[:1])
            works = f"{name}={usable} works" if usable else "python3 -m llama31 tokenize makes it"
            yield f"{name}={value}: no {idx_path(directory / rules.token_file_name(name_of(missing[0])))}; {works}"


def _numbers_in(directory: Path, name_of: Callable[[int], str]) -> list[int]:
    """Return all n for which a directory holds the index of token file `name_of(n)`, sorted."""
    pattern = re.compile(re.escape(idx_path(Path(rules.token_file_name(name_of(0)))).name).replace("0", "([0-9]+)"))
    with failures_named(directory):
        return sorted(int(match[1]) for file in directory.iterdir() if (match := pattern.fullmatch(file.name)))


def _vocabulary_size(settings: Settings, problems: list[str]) -> int:
    """Return the vocabulary size of the tokenizer; 0, with lines in `problems`, if it is unusable."""
    directory = settings.tokenizer_path
    if not _is_directory("TOKENIZER_PATH", directory, "a tokenizer in Hugging Face's format", problems):
        return 0
    size = 0
    with _collecting(problems):
        size = tokenizer.vocabulary_size(directory)
        for line in tokenizer.problems(directory):
            problems.append(f"TOKENIZER_PATH={directory}: {line.removeprefix(str(Path(directory))).lstrip('/: ')}")
        if not any((Path(directory) / file).is_file() for file in (tokenizer.CONFIG_FILE, "config.json")):
            advice = "copy it from the same tokenizer"
            problems.append(f"TOKENIZER_PATH={directory}: holds no tokenizer_config.json; {advice}")
        elif not {"eos_token", "sep_token"} & tokenizer.named_tokens(directory).keys():
            advice = "add the end-of-text token"
            problems.append(f"TOKENIZER_PATH={directory}: tokenizer_config.json names no eos_token; {advice}")
    return size


def _check_ids(settings: Settings, files: Sequence[TokenFile], vocab_size: int) -> None:
    """Raise UserError for the first token file that does not fit its manifest, the tokenizer or the benchmark."""
    for file in files:
        path = bin_path(file.prefix)
        manifest = token_manifest.read(file.prefix)
        if manifest and (manifest.documents, manifest.tokens) != (file.documents, file.tokens):
            raise UserError(
                f"{token_manifest.manifest_path(file.prefix)}: is of {manifest.tokens:,} tokens in "
                f"{manifest.documents:,} documents, {path.name} holds {file.tokens:,} in {file.documents:,}; "
                "remove it if the data was not made here"
            )
        if manifest and manifest.tokenizer_sha256 not in tokenizer.hashes(settings.tokenizer_path):
            ours = tokenizer.fingerprint(settings.tokenizer_path)
            raise UserError(
                f"TOKENIZER_PATH={settings.tokenizer_path}: {path} was made with another tokenizer (SHA-256 of "
                f"tokenizer.json {manifest.tokenizer_sha256[:12]}..., here {ours[:12]}...); use that one"
            )
        if manifest and manifest.append_eod:
            raise UserError(
                f"{path}: was made with --append-eod; the benchmark's data has no end-of-text tokens: tokenise it "
                "without, to a new PREPROCESSED_PATH"
            )
        ids = (
            [0, manifest.largest_id] if manifest else [*file.first_tokens(SAMPLED_IDS), *file.last_tokens(SAMPLED_IDS)]
        )
        outlier = min(ids) if min(ids) < 0 else max(ids)
        if not 0 <= outlier < vocab_size:
            raise UserError(
                f"TOKENIZER_PATH={settings.tokenizer_path}: has {vocab_size:,} ids, but {path} holds id {outlier}; "
                "use the tokenizer that made the data"
            )


def _is_directory(name: str, value: str, contents: str, problems: list[str]) -> bool:
    """Return whether a setting names a directory; if not, append a line to `problems`."""
    if value and os.path.isdir(value):  # noqa: PTH112 - unlike Path's, this never raises
        return True
    problem = f"{name}={value}: no such directory" if value else f"{name} is empty"
    problems.append(f"{problem}; set it to the directory of {contents}")
    return False


@contextlib.contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    """Append the lines of a UserError in the block to `problems`."""
    try:
        yield
    except UserError as error:
        problems += error.lines
