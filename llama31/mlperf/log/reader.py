"""Read the `:::MLLOG` lines of a file, ignoring everything else in it: job output, progress bars, gzip."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from mlperf_logging.compliance_checker.mlp_parser.ruleset_610 import TOKEN
from mlperf_logging.mllog import constants

from llama31 import rules
from llama31.mlperf.log.records import TRACKED_STATS, Damage, Damages, Log, Record, is_number, shown

BLOCK = 1 << 20  # bytes of a log read at a time, and of the longest line
GZIP = b"\x1f\x8b"
CUT_OFF = "the compressed file is truncated or damaged; the rest is lost"
GLUED = "another line begins within it"
_TOKEN = TOKEN.encode()
_RCP_WORDS = tuple(word.encode() for word in rules.RCP_WORDS)
_CUT_TOKENS = tuple(_TOKEN[:length] for length in range(len(":::M"), len(_TOKEN)))
_END = re.compile(rb"[\r\n]|" + re.escape(_TOKEN))


def read(path: Path) -> tuple[Log, Damages]:
    """Return the log in a file, and its damaged `:::MLLOG` lines; skip all other lines.

    tracked_stats are left out: there can be one for each step, and no rule uses them. Those that rcp_checker
    misreads (see `Record.rcp_words`) are kept.
    """
    records: list[Record] = []
    damaged = Damages()
    with path.open("rb") as file:
        for found in scan(file):
            if isinstance(found, Damage):
                damaged.add(found)
            elif found.key != TRACKED_STATS or found.text:
                records.append(found)
    return Log(records), damaged


def scan(file: BinaryIO, progress: Callable[[int], None] = lambda count: None) -> Iterator[Record | Damage]:
    """Yield a record or a damage for each `:::MLLOG` line, in file order.

    Other text, often most of a file, costs one search; at most one block of the file is held in memory. Lines are
    numbered as in an editor, by line feeds, but a carriage return ends a line too, as in MLCommons' reader:
    progress bars write these. If another token follows on the same line, that reader takes the text after the last
    one; the text before it is damage here. A line with a token must not be longer than a block.

    Args:
        file: The log, which may be gzipped.
        progress: Called with the number of bytes of each read.
    """
    source = _Source(file, progress)
    number, data, block = 1, b"", b"."
    while block:
        block = source.read(BLOCK)
        data += block
        end = _end_of_lines(data) if block else len(data)
        done = 0
        while (token := data.find(_TOKEN, done, end)) >= 0:
            number += data.count(b"\n", done, token)
            text = token + len(_TOKEN)
            stop = _END.search(data, text)
            done = stop.start() if stop else end
            is_glued = stop is not None and stop[0] == _TOKEN
            yield Damage(number, GLUED) if is_glued else _read(number, data[text:done])
        if not block and done < end and data.endswith(_CUT_TOKENS):
            yield _read(number, b"")  # cut off within the token
        number += data.count(b"\n", done, end)
        data = data[end:]
    if source.cut_off:
        yield Damage(number, CUT_OFF)


def _end_of_lines(data: bytes) -> int:
    """Return where the last whole line ends; cut a line longer than a block before its last token."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if end or len(data) <= BLOCK:
        return end
    last = data.rfind(_TOKEN)
    return last if last > 0 else len(data) - len(_TOKEN)


class _Source:
    """A log's bytes, decompressed if necessary, up to the first error."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]):
        self._file = file
        self._progress = progress
        self._reported = 0
        self._gzip = gzip.GzipFile(fileobj=file) if file.read(len(GZIP)) == GZIP else None
        self.cut_off = False
        file.seek(0)

    def read(self, count: int) -> bytes:
        """Return the next bytes; none at the end."""
        try:
            data = self._gzip.read1(count) if self._gzip else self._file.read(count)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.cut_off = True
            return b""
        position = self._file.tell()
        self._progress(position - self._reported)
        self._reported = position
        return data


def _read(number: int, text: bytes) -> Record | Damage:
    """Parse the text after the token of a line."""
    try:
        fields = parse_json(text)
        # Some logs have "" for no metadata; to the official checkers it is the same as an empty object.
        metadata = fields["metadata"] or {}
        is_searched = fields["key"] == constants.RUN_STOP or any(word in text for word in _RCP_WORDS)
        searched = text if is_searched else b""
        record = Record(number, float(fields["time_ms"]), fields["key"], fields["value"], metadata, searched)
        if not isinstance(record.key, str) or not isinstance(record.metadata, dict):
            raise TypeError("key is not a string, or metadata not an object")
        if isinstance(fields["time_ms"], bool) or not is_number(record.time_ms):
            raise ValueError(f"time_ms is {shown(fields['time_ms'])}")
        if record.key == TRACKED_STATS and not isinstance(record.value, dict):
            raise TypeError(f"the value of {TRACKED_STATS} is not an object")
        return record
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        return Damage(number, reason_of(error))


def parse_json(text: bytes) -> Any:
    """Parse JSON, with the standard library if orjson rejects it: NaN, and other encodings than UTF-8.

    Raises ValueError if the text is not JSON.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        found = json.loads(text.decode("latin-1"))
        json.dumps(found, ensure_ascii=False).encode()  # raises on half a surrogate pair, which cannot be encoded
        return found


def reason_of(error: Exception) -> str:
    """Return a short reason why a line is damaged."""
    if isinstance(error, json.JSONDecodeError):
        return "not JSON" if error.doc.strip() else "nothing after the token"
    return f"no {error.args[0]}" if isinstance(error, KeyError) else shown(str(error)).strip('"')
