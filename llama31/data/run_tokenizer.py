"""The tokenizer as the ranks of a run get it: tokenizer.json, and a configuration that adds nothing to its ids.

What transformers makes of a directory depends on the class, the special tokens and the code that its configuration
names, and on transformers' version. So no rank loads TOKENIZER_PATH itself: each run directory holds a copy of
tokenizer.json under a configuration of ours. Standard library and orjson alone, but for `check`'s argument.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama31.common.errors import UserError
from llama31.common.files import failures_named
from llama31.common.json_files import write_json
from llama31.config import paths
from llama31.data import tokenizer

CLASS = "PreTrainedTokenizerFast"  # which takes any tokenizer.json as it is, and has no special tokens of its own
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
KEPT = {"model_max_length": int, "clean_up_tokenization_spaces": bool, "chat_template": str}
"""What else of a configuration is kept, where it is of this type: it concerns exports, and no ids."""
FILES = ("*.jinja", "generation_config.json")
"""What is copied beside tokenizer.json, for exports too."""
SHOWN_LENGTH = 40  # of a value that is left out


def ensure(source: Path, run_dir: Path) -> Path:
    """RUN_DIR/tokenizer; writes it where it is not there, which several ranks may do at a time.

    Raises UserError where `source` holds no tokenizer, or the directory cannot be written.
    """
    directory = run_dir / paths.TOKENIZER
    if directory.is_dir():
        return directory
    with failures_named(directory), tempfile.TemporaryDirectory(dir=run_dir, prefix=".") as place:
        whole = Path(place) / paths.TOKENIZER
        write(source, whole)
        try:
            whole.rename(directory)
        except OSError:
            if not directory.is_dir():  # it is there where another rank was quicker
                raise
    return directory


def write(source: Path, directory: Path) -> None:
    """Writes the tokenizer in `source` into a new directory. Raises UserError as `ensure`."""
    files = [tokenizer.tokenizer_file(source), *(file for name in FILES for file in sorted(source.glob(name)))]
    written = configuration(source)
    with failures_named(directory):
        directory.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, directory / file.name)
        write_json(directory / tokenizer.CONFIG_FILE, written)


def configuration(source: Path) -> dict[str, Any]:
    """The tokenizer_config.json of a run: special tokens that tokenizer.json has, and what concerns no ids.

    Raises UserError where `source` holds no tokenizer, or its configuration is damaged.
    """
    given, named, added = (
        tokenizer.configuration(source),
        tokenizer.named_tokens(source),
        tokenizer.added_tokens(source),
    )
    kept = {name: given[name] for name, kind in KEPT.items() if type(given.get(name)) is kind}
    # transformers takes the name of a padding token from tokenizer.json itself where this file has no such entry.
    special: dict[str, str | None] = {"pad_token": None}
    special |= {name: named[name] for name in NAMES if named.get(name) in added}
    if end := named.get("eos_token", named.get("sep_token")):  # without which NeMo loads no tokenizer
        special["eos_token"] = end
    space = tokenizer.add_prefix_space(source)
    return {
        "tokenizer_class": CLASS,
        **({} if space is None else {"add_prefix_space": space}),  # else transformers sets it to false
        **special,
        **kept,
    }


def left_out(source: Path) -> list[str]:
    """What of a tokenizer's configuration a run does not use, NAME or NAME=value. Raises UserError as `configuration`.

    What repeats tokenizer.json is not listed.
    """
    ours, added = configuration(source), tokenizer.added_tokens(source)
    named = tokenizer.named_tokens(source)
    repeated = {*named, *tokenizer.LISTS, tokenizer.NUMBERED}
    others = {name: value for name, value in tokenizer.configuration(source).items() if name not in repeated}
    said: dict[str, Any] = {**others, **{name: token for name, token in named.items() if token not in added}}
    return [
        f"{name}={value}" if isinstance(value, str | int) and len(str(value)) <= SHOWN_LENGTH else name
        for name, value in sorted(said.items())
        if value is not None and ours.get(name) != value
    ]


def described(source: Path) -> dict[str, Any]:
    """What a run's record says of its tokenizer. Raises UserError as `configuration`."""
    return {
        "file": str(tokenizer.tokenizer_file(source)),
        "ids": tokenizer.vocabulary_size(source),
        "ids_sha256": tokenizer.fingerprint(source),
        "left_out": left_out(source),
    }


@contextmanager
def loading(source: Path) -> Iterator[None]:
    """Turn any error of transformers or NeMo about a tokenizer into a UserError of one line."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises plain Exception
        reason = str(error).rpartition("Exception: ")[2].partition("\n")[0]  # which NeMo puts before it
        raise UserError(
            f"{tokenizer.tokenizer_file(source)}: cannot be loaded: {reason}; save it with the pinned transformers, or "
            "get it again"
        ) from error


def check(loaded: Any, source: Path) -> None:
    """Raises UserError unless transformers made of a run's directory just the ids in `source`.

    Args:
        loaded: What transformers' AutoTokenizer gave for the directory that `ensure` or `write` made.
        source: The tokenizer's own directory.
    """
    ours, theirs = tokenizer.vocabulary(source), loaded.get_vocab()
    if theirs == ours and len(loaded) == len(ours):
        return
    differing = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
    raise UserError(
        f"{tokenizer.tokenizer_file(source)}: has {len(ours):,} ids, transformers makes {len(loaded):,} of it, which "
        f"differ in {', '.join(map(repr, differing[:3]))}; use the pinned transformers"
    )
