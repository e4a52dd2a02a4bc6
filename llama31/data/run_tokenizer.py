"""A run's copy of the tokenizer: tokenizer.json with a configuration that does not change its ids.

What transformers loads from a directory depends on the class, special tokens and code that its configuration names, and
on transformers' version. So ranks do not load TOKENIZER_PATH: each run directory has a copy of tokenizer.json with our
own configuration. Needs only orjson.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama31 import rules
from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import write_json
from llama31.config import paths
from llama31.data import synthetic, tokenizer
from llama31.settings import Settings

CLASS = "PreTrainedTokenizerFast"  # accepts any tokenizer.json and adds no special tokens
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
KEPT = {"model_max_length": int, "clean_up_tokenization_spaces": bool, "chat_template": str}
"""Other entries that are kept if they have this type: they concern exports, not ids."""
FILES = ("*.jinja", "generation_config.json")
"""Files copied with tokenizer.json, also for exports."""
SHOWN_LENGTH = 40  # longest value in a message


def ensure(settings: Settings, run_dir: Path) -> Path:
    """Write RUN_DIR/tokenizer if it is missing, safely for concurrent ranks. Return its path.

    Raises UserError if TOKENIZER_PATH holds no tokenizer, or if the directory cannot be written.
    """
    directory = run_dir / paths.TOKENIZER
    if directory.is_dir():
        return directory
    with failures_named(directory), tempfile.TemporaryDirectory(dir=run_dir, prefix=".") as temporary:
        complete = Path(temporary) / paths.TOKENIZER
        if settings.mock_data:
            synthetic.write_tokenizer(complete)
        else:
            write(Path(settings.tokenizer_path), complete)
        try:
            complete.rename(directory)
        except OSError:
            if not directory.is_dir():  # otherwise another rank was first
                raise
    return directory


def write(source: Path, directory: Path) -> None:
    """Write the tokenizer in `source` into a new directory.

    Raises UserError if `source` holds no tokenizer, or if the directory cannot be written.
    """
    files = [tokenizer.tokenizer_file(source), *(file for name in FILES for file in sorted(source.glob(name)))]
    written = configuration(source)
    with failures_named(directory):
        directory.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        write_json(directory / tokenizer.CONFIG_FILE, written)


def configuration(source: Path) -> dict[str, Any]:
    """Return a run's tokenizer_config.json: special tokens that tokenizer.json has, and entries that do not affect ids.

    Raises UserError if `source` holds no tokenizer, or if its configuration is damaged.
    """
    given, named = tokenizer.configuration(source), tokenizer.named_tokens(source)
    added = tokenizer.added_tokens(source)
    kept = {name: given[name] for name, kind in KEPT.items() if type(given.get(name)) is kind}
    # Without this entry transformers takes the padding token from tokenizer.json.
    special: dict[str, str | None] = {"pad_token": None}
    special |= {name: named[name] for name in NAMES if named.get(name) in added}
    if end := named.get("eos_token", named.get("sep_token")):  # NeMo requires it
        special["eos_token"] = end
    space = tokenizer.add_prefix_space(source)
    return {
        "tokenizer_class": CLASS,
        **({} if space is None else {"add_prefix_space": space}),  # transformers' default is false
        **special,
        **kept,
    }


def ignored_entries(source: Path) -> list[str]:
    """Return entries of a tokenizer's configuration that a run does not use, as NAME or NAME=value.

    Entries that repeat tokenizer.json are not listed. Raises UserError as `configuration`.
    """
    ours, added = configuration(source), tokenizer.added_tokens(source)
    named = tokenizer.named_tokens(source)
    repeated = {*named, *tokenizer.LISTS, tokenizer.NUMBERED}
    others = {name: value for name, value in tokenizer.configuration(source).items() if name not in repeated}
    entries: dict[str, Any] = {**others, **{name: token for name, token in named.items() if token not in added}}
    return [
        f"{name}={value}" if isinstance(value, str | int) and len(str(value)) <= SHOWN_LENGTH else name
        for name, value in sorted(entries.items())
        if value is not None and ours.get(name) != value
    ]


def hashes(settings: Settings) -> tuple[str, ...]:
    """Return all hashes that may be recorded for a run's tokenizer, the current kind first; see `tokenizer.hashes`."""
    return (synthetic.FINGERPRINT,) if settings.mock_data else tokenizer.hashes(settings.tokenizer_path)


def fingerprint(settings: Settings) -> str:
    """Return the hash of a run's tokenizer that is recorded and compared. Raises UserError as `configuration`."""
    return synthetic.FINGERPRINT if settings.mock_data else tokenizer.fingerprint(settings.tokenizer_path)


def describe(settings: Settings) -> dict[str, Any]:
    """Return what a run records about its tokenizer. Raises UserError as `configuration`."""
    if settings.mock_data:
        return {"ids": rules.VOCABULARY_SIZE, "ids_sha256": synthetic.FINGERPRINT}
    source = Path(settings.tokenizer_path)
    return {
        "file": str(tokenizer.tokenizer_file(source)),
        "ids": tokenizer.vocabulary_size(source),
        "ids_sha256": tokenizer.fingerprint(source),
        "left_out": ignored_entries(source),
    }


@contextmanager
def loading(source: Path) -> Iterator[None]:
    """Turn any error of transformers or NeMo about a tokenizer into a UserError of one line."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = str(error).rpartition("Exception: ")[2].partition("\n")[0]  # NeMo adds a prefix
        raise UserError(
            f"{tokenizer.tokenizer_file(source)}: cannot be loaded: {reason}; save it with the pinned transformers, or "
            "get it again"
        ) from error


def check(loaded: Any, source: Path) -> None:
    """Raise UserError unless transformers loaded exactly the ids in `source` from the copy that `write` made."""
    ours, theirs = tokenizer.vocabulary(source), loaded.get_vocab()
    if theirs == ours and len(loaded) == len(ours):
        return
    differing = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
    raise UserError(
        f"{tokenizer.tokenizer_file(source)}: has {len(ours):,} ids, transformers makes {len(loaded):,} of it, which "
        f"differ in {', '.join(map(repr, differing[:3]))}; use the pinned transformers"
    )
