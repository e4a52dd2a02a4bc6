"""An MLPerf log as a reader sees it: what its `:::MLLOG` lines say, by key, and what is found wrong with them."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from mlperf_logging.mllog import constants

from llama31 import rules

# Keys that mllog has no constants for
TARGET_ACCURACY = "target_accuracy"
TRACKED_STATS = "tracked_stats"
RUN_RESUMED = "run_resumed"

# Keys that no ruleset wants; published logs lack some of them. The seed, however, is compared by the package checker.
OPTIONAL_KEYS = (constants.SUBMISSION_STATUS, TARGET_ACCURACY, constants.INIT_CHECKPOINT_STEP)

EVENTS = (
    constants.CACHE_CLEAR,
    constants.EVAL_ACCURACY,
    constants.TRAINED_SAMPLES,
    constants.POWER_READING,
    RUN_RESUMED,
    TRACKED_STATS,
)
"""Keys of what happens in a run, besides the starts and stops of intervals."""

MOST_WHOLE = 2**53
ABOVE_ZERO = "a number above 0"
NONE = "none"  # what is found of a key that is missing
NAMED = 20  # damaged lines of a file that are named one by one
LISTED = 300  # characters of a list within a line


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
    text: bytes = b""
    """JSON of the line, if MLCommons' rcp_checker reads the line: see `words`."""

    @property
    def words(self) -> list[str]:
        """Words of `rules.RCP_WORDS` in the line."""
        return [word for word in rules.RCP_WORDS if word.encode() in self.text]

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


@dataclass
class Damages:
    """What cannot be read in a file."""

    count: int = 0
    first: list[Damage] = field(default_factory=list)

    def add(self, damage: Damage) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(damage)

    def __str__(self) -> str:
        numbers = list(dict.fromkeys(str(damage.number) for damage in self.first))
        more = ", ..." if self.count > len(self.first) else ""
        reasons = listed(list(dict.fromkeys(damage.why for damage in self.first)), "; ")
        return f"{self.count:,} that cannot be read, line {', '.join(numbers)}{more} ({reasons})"


@dataclass(frozen=True)
class Violation:
    """One thing in a log that is not as a rule wants it."""

    key: str
    found: str
    wants: str
    may_depart: bool = False
    """A run outside the closed division may differ here and be right otherwise."""
    of_end: bool = False
    """A run that ends before its target leaves it so, as one of a submission may."""
    hint: str = ""
    """What the author of the log may have meant, if that is known."""

    @property
    def is_missing(self) -> bool:
        """The log has no line of this key."""
        return self.found.split(",")[0] == NONE

    def __str__(self) -> str:
        return f"{self.key}: found {self.said}; wants {self.wants}"

    @property
    def said(self) -> str:
        """What was found, with the hint."""
        return f"{self.found} ({self.hint})" if self.hint else self.found


class Log:
    """A log's records, in the order of the file and by key."""

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self._by_key: dict[str, list[Record]] = {}
        for record in records:
            self._by_key.setdefault(record.key, []).append(record)

    @property
    def keys(self) -> Iterable[str]:
        """Its keys, in the order of their first records."""
        return self._by_key.keys()

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

    def followed(self, key: str, by: str) -> list[tuple[Record, list[Record]]]:
        """Each record of a key with those of another that lie between it and the next."""
        found: list[tuple[Record, list[Record]]] = []
        for record in self.records:
            if record.key == key:
                found.append((record, []))
            elif record.key == by and found:
                found[-1][1].append(record)
        return found

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


def is_event(key: str) -> bool:
    """Whether a key tells of a run's course, and not what the run is."""
    return key in EVENTS or key.endswith(("_start", "_stop"))


def is_number(value: object) -> TypeGuard[int | float]:
    """A number of JSON that is finite, as a float too: an integer may have any number of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: object, least: int) -> TypeGuard[int | float]:
    """A whole number of at least `least` that a float holds exactly; some logs write 1.0 for 1."""
    return is_number(value) and value == int(value) and least <= value <= MOST_WHOLE


def shown(value: object) -> str:
    """A value of a log, as JSON, cut where it is long."""
    return cut(json.dumps(value))


def cut(text: str, longest: int = 60) -> str:
    """The text, shortened to `longest` characters."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def listed(items: Sequence[str], separator: str = ", ", room: int = LISTED, noun: str = "") -> str:
    """Join the first items, as many as fit into `room` characters but at least one, and count the rest.

    `noun` is what one of them is called.
    """
    used, number = 0, 0
    for item in items:
        used += len(item) + len(separator)
        if number and used > room:
            break
        number += 1
    rest = len(items) - number
    more = f"{rest:,} more" + (f" {noun}" + "s" * (rest > 1) if noun else "")
    return separator.join([*items[:number], *([more] if rest else [])])


def count(records: Sequence[Record]) -> str:
    """How many records of one key there are, and what they say where they differ."""
    different = sorted({shown(record.value) for record in records})
    if not records:
        return NONE
    return f"{len(records)} lines" + (f" that differ: {listed(different)}" if len(different) > 1 else "")
