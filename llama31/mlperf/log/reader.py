"""The `:::MLLOG` lines of a file, whatever surrounds them: a job's whole output, progress bars, gzip."""

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
CUT_OFF = "the compressed file ends too early, or is damaged; what follows is lost"
GLUED = "another line begins within it"
_TOKEN = TOKEN.encode()
_RCP_WORDS = tuple(word.encode() for word in rules.RCP_WORDS)
_CUT_TOKENS = tuple(_TOKEN[:length] for length in range(len(":::M"), len(_TOKEN)))
_END = re.compile(rb"[\r\n]|" + re.escape(_TOKEN))


def read(path: Path) -> tuple[Log, Damages]:
    """The log in a file, and the `:::MLLOG` lines that say nothing; other lines are passed over.

    tracked_stats are left out: there can be one for each step, and no rule looks at them. Those that rcp_checker takes
    for something else (see `Record.words`) are kept.
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
    """All that a log's `:::MLLOG` lines say, in the order of the file, and which of them say nothing.

    Chatter between them, which may be most of a log, costs one search; of the file no more than a block is kept.
    A line is numbered as editors do, by the line feeds before it, but ends at a carriage return too, as for
    MLCommons' reader: progress bars write these. Where another token follows on the same line, that reader takes what
    follows the last one; what is before it is damage here. Chatter without an end goes by block; what a token begins
    must end within one.

    Args:
        file: The log, which may be compressed by gzip.
        progress: Called with each number of bytes that were read of the file.
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
    """Where the last whole line ends; a line longer than a block is taken up to its last token, or for chatter."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if end or len(data) <= BLOCK:
        return end
    last = data.rfind(_TOKEN)
    return last if last > 0 else len(data) - len(_TOKEN)


class _Source:
    """A log's bytes, decompressed if need be, up to where that fails."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]):
        self._file = file
        self._progress = progress
        self._told = 0
        self._gzip = gzip.GzipFile(fileobj=file) if file.read(len(GZIP)) == GZIP else None
        self.cut_off = False
        file.seek(0)

    def read(self, count: int) -> bytes:
        """The next bytes, none at the end."""
        try:
            data = self._gzip.read1(count) if self._gzip else self._file.read(count)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.cut_off = True
            return b""
        place = self._file.tell()
        self._progress(place - self._told)
        self._told = place
        return data


def _read(number: int, text: bytes) -> Record | Damage:
    """What follows the token of a line."""
    try:
        return _parse(number, text)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        return Damage(number, why(error))


def _parse(number: int, text: bytes) -> Record:
    fields = parsed(text)
    # Some logs say "" for no metadata; the official checkers find no key in it, as in an empty object.
    metadata = fields["metadata"] or {}
    is_read = fields["key"] == constants.RUN_STOP or any(word in text for word in _RCP_WORDS)
    searched = text if is_read else b""
    record = Record(number, float(fields["time_ms"]), fields["key"], fields["value"], metadata, searched)
    if not isinstance(record.key, str) or not isinstance(record.metadata, dict):
        raise TypeError("key is no string, or metadata no object")
    if isinstance(fields["time_ms"], bool) or not is_number(record.time_ms):
        raise ValueError(f"time_ms is {shown(fields['time_ms'])}")
    if record.key == TRACKED_STATS and not isinstance(record.value, dict):
        raise TypeError(f"the value of {TRACKED_STATS} is no object")
    return record


def parsed(text: bytes) -> Any:
    """JSON, at once where it is plain; what the standard library takes beyond that, so do we.

    That is NaN, and bytes of other encodings than UTF-8.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        found = json.loads(text.decode("latin-1"))
        json.dumps(found, ensure_ascii=False).encode()  # half a surrogate pair can be written nowhere
        return found


def why(error: Exception) -> str:
    """What is wrong with a line of JSON, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        return "no JSON" if error.doc.strip() else "nothing behind the token"
    return f"no {error.args[0]}" if isinstance(error, KeyError) else shown(str(error)).strip('"')
