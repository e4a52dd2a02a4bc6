"""An MLPerf log as a reader sees it: its `:::MLLOG` lines, by key, and what is found wrong with them."""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import orjson
from mlperf_logging.compliance_checker.mlp_parser.ruleset_610 import TOKEN
from mlperf_logging.mllog import constants

from llama31 import rules

# Keys that mllog has no constants for
TARGET_ACCURACY = "target_accuracy"
TRACKED_STATS = "tracked_stats"
RUN_RESUMED = "run_resumed"

BLOCK = 1 << 20  # bytes of a log read at a time, and of the longest line
MOST_WHOLE = 2**53
_TOKEN = TOKEN.encode()
_LINE_END = re.compile(rb"[\r\n]")


@dataclass(frozen=True)
class Record:
    """One `:::MLLOG` line of a log."""

    number: int
    """Line number in the file, from 1."""
    time_ms: float
    """Milliseconds since 1970."""
    key: str
    value: Any
    metadata: dict[str, Any]

    @property
    def samples(self) -> Any:
        """Training sequences so far, as an event gives them."""
        return self.metadata.get(constants.SAMPLES_COUNT)

    def __str__(self) -> str:
        return f"{shown(self.value)} in line {self.number}"


@dataclass(frozen=True)
class Damage:
    """A `:::MLLOG` line that says nothing."""

    number: int
    """Line number in the file, from 1."""
    why: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.why}"


@dataclass(frozen=True)
class Finding:
    """One thing in a log that is not as a rule wants it."""

    key: str
    found: str
    wants: str
    may_depart: bool = False
    """A run outside the closed division may differ here and be right otherwise."""

    def __str__(self) -> str:
        return f"{self.key}: found {self.found}; wants {self.wants}"


class Log:
    """A log's records, in the order of the file and by key."""

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self._by_key: dict[str, list[Record]] = {}
        for record in records:
            self._by_key.setdefault(record.key, []).append(record)

    def all(self, *keys: str) -> list[Record]:
        """Records of these keys, key by key."""
        return [record for key in keys for record in self._by_key.get(key, ())]

    def first(self, key: str) -> Record | None:
        """The key's first record, if there is one."""
        return next(iter(self.all(key)), None)

    def last(self, key: str) -> Record | None:
        """The key's last record, if there is one."""
        return next(reversed(self.all(key)), None)

    def value(self, key: str) -> Any:
        """Value of the key's first record; None where there is none."""
        record = self.first(key)
        return record.value if record else None

    def whole(self, key: str) -> int | None:
        """The key's value if it is a whole number above 0."""
        value = self.value(key)
        return int(value) if is_whole(value, 1) else None

    @property
    def is_closed(self) -> bool:
        """The log is one of the closed division, which is taken for granted where it does not say."""
        return bool(self.value(constants.SUBMISSION_DIVISION) != constants.OPEN)

    @property
    def declared(self) -> list[str] | None:
        """Departures that the log declares (`MLPerfLog.describe`); None in other projects' logs, which do not."""
        division = self.first(constants.SUBMISSION_DIVISION)
        departures = division.metadata.get("departures") if division else None
        return [str(departure) for departure in departures] if isinstance(departures, list) else None

    @property
    def target(self) -> float:
        """Validation loss that the run was to reach."""
        target = self.value(TARGET_ACCURACY)
        return float(target) if is_number(target) else rules.TARGET

    @property
    def schedule(self) -> tuple[int, int] | None:
        """Training sequences from one evaluation to the next, and before the first; None without a batch size.

        The benchmark's, unless a log of the open division says its own.
        """
        batch = self.whole(constants.GLOBAL_BATCH_SIZE)
        if batch is None:
            return None
        samples = self.first(constants.EVAL_SAMPLES)
        said = samples.metadata if samples and not self.is_closed else {}
        every, start = said.get("eval_every"), said.get("start_eval_at")
        every = int(every) if is_whole(every, 1) else rules.EVAL_EVERY
        start = int(start) if is_whole(start, 0) else 0
        interval = rules.steps_between_evaluations(every, batch) * batch
        return interval, max(1, math.ceil(start / interval)) * interval


def read(path: Path) -> tuple[Log, list[int]]:
    """The log in a file, and the numbers of the `:::MLLOG` lines that say nothing; other lines are passed over.

    tracked_stats are left out: there can be one for each step, and no rule looks at them.
    """
    records: list[Record] = []
    damaged: list[int] = []
    with path.open("rb") as file:
        for found in scan(file):
            if isinstance(found, Damage):
                damaged.append(found.number)
            elif found.key != TRACKED_STATS:
                records.append(found)
    return Log(records), damaged


class Readable(Protocol):
    """A binary file, or what reads like one."""

    def read(self, count: int, /) -> bytes: ...


def scan(file: Readable) -> Iterator[Record | Damage]:
    """All that a log's `:::MLLOG` lines say, in the order of the file, and which of them say nothing.

    Chatter between them, which may be most of a log, costs one search; of the file no more than a block is kept.
    """
    for number, text in _mllog_lines(file):
        try:
            yield _parse(number, text)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            yield Damage(number, why(error))


def _mllog_lines(file: Readable) -> Iterator[tuple[int, bytes]]:
    """Number and text of each `:::MLLOG` line, from behind its last token to its end.

    A line is numbered as editors do, by the line feeds before it, but ends at a carriage return too, as for
    MLCommons' reader: progress bars write these. Chatter without an end goes by block; what a token begins must end
    within one.
    """
    number, rest = 1, b""
    while block := file.read(BLOCK):
        data = rest + block
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if not end and len(data) > BLOCK:
            last = data.rfind(_TOKEN)
            end = last if last > 0 else len(data) - len(_TOKEN)
        done = 0
        while (token := data.find(_TOKEN, done, end)) >= 0:
            number += data.count(b"\n", done, token)
            line_end = _LINE_END.search(data, token, end)
            done = line_end.start() if line_end else end
            yield number, data[token:done].rpartition(_TOKEN)[2]
        number += data.count(b"\n", done, end)
        rest = data[end:]
    if _TOKEN in rest:
        yield number, rest.rpartition(_TOKEN)[2]
    elif any(rest.endswith(_TOKEN[:length]) for length in range(len(":::M"), len(_TOKEN))):
        yield number, b""  # cut off within the token


def _parse(number: int, text: bytes) -> Record:
    fields = parsed(text)
    record = Record(number, float(fields["time_ms"]), fields["key"], fields["value"], fields["metadata"])
    if not isinstance(record.key, str) or not isinstance(record.metadata, dict):
        raise TypeError("key is no string, or metadata no object")
    return record


def parsed(text: bytes) -> Any:
    """JSON, at once where it is plain; what the standard library takes beyond that, so do we.

    That is NaN, numbers beyond 64 bits, and bytes of other encodings than UTF-8.
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


def is_number(value: object) -> TypeGuard[int | float]:
    """A number of JSON that is finite, as a float too: an integer may have any number of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: object, least: int) -> TypeGuard[int | float]:
    """A whole number of at least `least` that a float holds exactly; some logs write 1.0 for 1."""
    return is_number(value) and value == int(value) and least <= value <= MOST_WHOLE


def shown(value: object) -> str:
    """A value of a log, as JSON, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def count(records: Sequence[Record]) -> str:
    """How many records of one key there are, and what they say where they differ."""
    different = sorted({shown(record.value) for record in records})
    if not records:
        return "none"
    return f"{len(records)} lines" + (f" that differ: {', '.join(different)}" if len(different) > 1 else "")
