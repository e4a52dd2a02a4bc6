"""Reading the text of each record, as NeMo's preprocess_data_for_megatron.py does: by Python's json.loads of its line.

orjson parses first. It accepts less than json.loads, and what both accept has the same texts in it; so json.loads is
asked only about lines that orjson refuses: those with NaN, Infinity, numbers beyond a double, or lone surrogates.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from llama31.common.errors import UserError
from llama31.corpus.compressed_files import format_of
from llama31.corpus.documents import LineBlock
from llama31.data.token_manifest import TokenManifest

LISTED = 100  # bad lines of which a manifest says which they are
BAD_LINE_LIMIT = 100  # skipped lines in a token file, by default
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

OnBadLine = Literal["stop", "skip"]
"""What to do about a line without a text."""

TYPES = {bool: "a boolean", type(None): "null", int: "a number", float: "a number", list: "an array", dict: "an object"}


@dataclass(frozen=True)
class BadLine:
    """A line that has no text to tokenise."""

    file: str
    """Name of the input, without directory."""
    line: int
    """Its number; a file's first is 1."""
    reason: str


@dataclass(frozen=True)
class Skipped:
    """The bad lines that were skipped so far."""

    count: int = 0
    listed: tuple[BadLine, ...] = ()
    """The first LISTED of them."""

    def plus(self, other: "Skipped") -> "Skipped":
        """Add bad lines that come after these."""
        return Skipped(self.count + other.count, (*self.listed, *other.listed)[:LISTED])

    def in_manifest(self) -> dict[str, Any]:
        """Return the fields of a Manifest."""
        return {"skipped_lines": self.count, "skipped": [asdict(line) for line in self.listed]}

    @staticmethod
    def of_manifest(made: TokenManifest) -> "Skipped":
        """Read the fields of a Manifest; one without them is of a version that skipped nothing."""
        return Skipped(made.skipped_lines or 0, tuple(BadLine(**line) for line in made.skipped or ()))


NOTHING_SKIPPED = Skipped()


def skip_limit(on_bad_line: OnBadLine, limit: int | None) -> int:
    """Return how many bad lines may be skipped, 0 for on_bad_line=stop. Raises UserError for a limit beside that."""
    if on_bad_line == "skip":
        return limit or BAD_LINE_LIMIT
    if limit is not None:
        raise UserError(f"--bad-line-limit={limit}: has an effect only with --on-bad-line=skip")
    return 0


def texts(
    block: LineBlock, key: str, refusal: Callable[[str], str], skipped: Skipped, limit: int
) -> tuple[list[str], Skipped]:
    """Return the text of each line that is not blank, and the bad lines so far.

    `refusal`: why the encoder cannot take a text, empty where it can. Raises UserError, naming file and line, for such
    a text, and for the first bad line beyond `limit`.
    """
    found: list[str] = []
    bad: list[BadLine] = []
    for number, line in enumerate(block.lines, block.first_line):
        try:
            text = orjson.loads(line)[key]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            text = None
        if type(text) is not str:
            if not line or line.isspace():
                continue
            try:
                text = text_of(line, key, is_text=format_of(block.path) is None)
            except NoText as error:
                bad.append(BadLine(block.path.name, number, str(error)))
                if skipped.count + len(bad) > limit:
                    raise UserError(f"{block.path}:{number}: {error}{_beyond(limit)}") from None
                continue
        if problem := refusal(text):
            raise UserError(f"{block.path}:{number}: {problem}")
        found.append(text)
    return found, skipped.plus(Skipped(len(bad), tuple(bad[:LISTED])))


def _beyond(limit: int) -> str:
    return f"; it is bad line {limit + 1:,}, and --bad-line-limit={limit} may be skipped" if limit else ""


class NoText(Exception):
    """Why a line has no text to tokenise."""


def text_of(line: bytes, key: str, is_text: bool) -> str:
    """Return the text of a line as json.loads reads it. `is_text`: NeMo's script decodes the line before, as UTF-8.

    json.loads also takes bytes; then it skips a byte order mark, and decodes surrogates that were encoded one by one.
    """
    try:
        # Python refuses integers of more than 4,300 digits for the time they take; as floats they take none.
        record = json.loads(line.decode() if is_text else line, parse_int=float)
        text = record[key]
    except RecursionError:
        raise NoText("not JSON that Python reads: nested too deeply") from None
    except ValueError as error:
        raise NoText(f"not JSON: {error}{_remedy(line, is_text)}") from None
    except (KeyError, TypeError):
        raise NoText(f'not an object with a "{key}"') from None
    if not isinstance(text, str):
        raise NoText(f'"{key}" is not a string but {TYPES[type(text)]}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise NoText(f'"{key}" holds a lone surrogate, U+{code:04X}, which no tokenizer takes') from None
    return text


def _remedy(line: bytes, is_text: bool) -> str:
    """Name what makes a line readable that NeMo's script reads in files of the other kind."""
    if is_text and line.startswith(BYTE_ORDER_MARK):
        return "; remove the byte order mark: NeMo's script accepts one in compressed files only"
    if not is_text and b"\r" in line.strip():
        return "; a lone carriage return ends a line in plain files only, as for NeMo's script"
    return ""
