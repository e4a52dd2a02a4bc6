"""Parser of each record's text, with the results of json.loads, which NeMo's preprocess_data_for_megatron.py uses.

orjson parses first. It accepts less than json.loads, and gives the same texts for lines that both accept. So json.loads
parses only the lines that orjson refuses: those with NaN, Infinity, numbers beyond a double, or lone surrogates.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from llama31.common.errors import UserError
from llama31.corpus.compressed_files import format_of
from llama31.corpus.documents import LineBlock
from llama31.corpus.texts import LONGEST_TEXT, Texts
from llama31.data.token_manifest import TokenManifest

MAX_LISTED = 100  # bad lines that a manifest lists at most
BAD_LINE_LIMIT = 100  # default of the bad lines that may be skipped in a token file
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

OnBadLine = Literal["stop", "skip"]
"""Action on a line without a text."""

TYPES = {bool: "a boolean", type(None): "null", int: "a number", float: "a number", list: "an array", dict: "an object"}


@dataclass(frozen=True)
class BadLine:
    """A line that has no text to tokenise."""

    file: str
    """Name of the input, without directory."""
    line: int
    """Line number, from 1."""
    reason: str


@dataclass(frozen=True)
class Skipped:
    """The bad lines that were skipped so far."""

    count: int = 0
    listed: tuple[BadLine, ...] = ()
    """The first bad lines, at most MAX_LISTED."""

    def plus(self, other: "Skipped") -> "Skipped":
        """Return these and the bad lines that follow them."""
        return Skipped(self.count + other.count, (*self.listed, *other.listed)[:MAX_LISTED])

    def in_manifest(self) -> dict[str, Any]:
        """Return these lines as fields of a TokenManifest."""
        return {"skipped_lines": self.count, "skipped": [asdict(line) for line in self.listed]}

    @staticmethod
    def of_manifest(manifest: TokenManifest) -> "Skipped":
        """Read the skipped lines of a manifest; one without these fields is of a version that skipped nothing."""
        return Skipped(manifest.skipped_lines or 0, tuple(BadLine(**line) for line in manifest.skipped or ()))


NOTHING_SKIPPED = Skipped()


def skip_limit(on_bad_line: OnBadLine, limit: int | None) -> int:
    """Return how many bad lines may be skipped, 0 for on_bad_line=stop. Raises UserError for `stop` with a limit."""
    if on_bad_line == "skip":
        return limit or BAD_LINE_LIMIT
    if limit is not None:
        raise UserError(f"--bad-line-limit={limit}: has an effect only with --on-bad-line=skip")
    return 0


def texts(
    block: LineBlock, key: str, refusal: Callable[[str], str], skipped: Skipped, limit: int
) -> tuple[Texts, Skipped]:
    """Return the texts of a block's lines, without empty ones, and the bad lines so far.

    `refusal` returns why the encoder cannot take a text, empty if it can; it takes all up to LONGEST_TEXT characters.
    Raises UserError, naming file and line, for such a text, and for the first bad line beyond `limit`.
    """
    try:  # in one pass while all lines are well-formed; orjson ignores line ends
        found = [orjson.loads(line)[key] for line in block.ended_lines]
        if {*map(type, found)} <= {str}:
            joined = Texts.of(found)
            if joined.lengths.max(initial=0) <= LONGEST_TEXT:  # bytes; no text has more characters
                return joined, skipped
    except (orjson.JSONDecodeError, KeyError, TypeError):
        pass
    found, skipped = _one_by_one(block, key, refusal, skipped, limit)
    return Texts.of(found), skipped


def _one_by_one(
    block: LineBlock, key: str, refusal: Callable[[str], str], skipped: Skipped, limit: int
) -> tuple[list[str], Skipped]:
    """Return the text of each line that is not blank, and the bad lines so far."""
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
                    raise UserError(f"{block.path}:{number}: {error}{_limit_text(limit)}") from None
                continue
        if problem := refusal(text):
            raise UserError(f"{block.path}:{number}: {problem}")
        found.append(text)
    return found, skipped.plus(Skipped(len(bad), tuple(bad[:MAX_LISTED])))


def _limit_text(limit: int) -> str:
    return f"; bad line {limit + 1:,} exceeds --bad-line-limit={limit}" if limit else ""


class NoText(Exception):
    """Raised if a line has no text to tokenise; the message is the reason."""


def text_of(line: bytes, key: str, is_text: bool) -> str:
    """Return the text of a line by json.loads. `is_text`: decode the line as UTF-8 first, like NeMo's script.

    Given bytes, json.loads skips a byte order mark, and decodes surrogates that were encoded one by one.
    """
    try:
        # Python refuses integers of more than 4,300 digits, which are slow to parse; floats are fast.
        record = json.loads(line.decode() if is_text else line, parse_int=float)
        text = record[key]
    except RecursionError:
        raise NoText("JSON nested too deeply") from None
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
        raise NoText(f'"{key}" contains a lone surrogate, U+{code:04X}, which tokenizers reject') from None
    return text


def _remedy(line: bytes, is_text: bool) -> str:
    """Return how to fix a line that NeMo's script accepts only in the other kind of file, plain or compressed."""
    if is_text and line.startswith(BYTE_ORDER_MARK):
        return "; remove the byte order mark: NeMo's script accepts one in compressed files only"
    if not is_text and b"\r" in line.strip():
        return "; a lone carriage return ends a line in plain files only, as in NeMo's script"
    return ""
