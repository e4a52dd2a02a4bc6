"""The `:::MLLOG` lines of a log as records, by key, and the violations found in them."""

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

# Keys that no ruleset requires; published logs lack some of them. (The package checker compares the seeds.)
OPTIONAL_KEYS = (constants.SUBMISSION_STATUS, TARGET_ACCURACY, constants.INIT_CHECKPOINT_STEP)

EVENTS = (
    constants.CACHE_CLEAR,
    constants.EVAL_ACCURACY,
    constants.TRAINED_SAMPLES,
    constants.POWER_READING,
    RUN_RESUMED,
    TRACKED_STATS,
)
"""Keys of what happens during a run, besides the starts and stops of intervals."""

MOST_WHOLE = 2**53
ABOVE_ZERO = "a number above 0"
NONE = "none"  # found for a missing key
NAMED = 20  # damaged lines of a file that are listed


@dataclass(frozen=True)
class Record:
    """One `:::MLLOG` line of a log."""

    number: int  # of the line in the file, from 1
    time_ms: float  # since 1970
    key: str
    value: Any
    metadata: dict[str, Any]
    text: bytes = b""
    """JSON of the line if MLCommons' rcp_checker reads the line, else empty: see `rcp_words`."""

    @property
    def rcp_words(self) -> list[str]:
        """Words of `rules.RCP_WORDS` that the line contains."""
        return [word for word in rules.RCP_WORDS if word.encode() in self.text]

    @property
    def samples(self) -> Any:
        """samples_count of an event: training sequences so far."""
        return self.metadata.get(constants.SAMPLES_COUNT)

    def __str__(self) -> str:
        return f"{shown(self.value)} in line {self.number}"


@dataclass(frozen=True)
class Damage:
    """A `:::MLLOG` line that cannot be parsed."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.reason}"


@dataclass
class Damages:
    """The unreadable lines of a file."""

    count: int = 0
    first: list[Damage] = field(default_factory=list)

    def add(self, damage: Damage) -> None:
        """Count a damage, and keep it if it is among the first."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(damage)

    def __str__(self) -> str:
        numbers = list(dict.fromkeys(str(damage.number) for damage in self.first))
        more = ", ..." if self.count > len(self.first) else ""
        reasons = listed(list(dict.fromkeys(damage.reason for damage in self.first)), "; ")
        return f"{self.count:,} unreadable, line {', '.join(numbers)}{more} ({reasons})"


@dataclass(frozen=True)
class Violation:
    """A rule that a log breaks."""

    key: str
    found: str
    wants: str
    may_depart: bool = False  # allowed outside the closed division
    of_end: bool = False
    """Caused by a run that ended before its target, which a submission may contain once."""
    hint: str = ""
    """Probable intention of the log's author; empty if unknown."""

    @property
    def is_missing(self) -> bool:
        """Whether the log has no line of this key."""
        return self.found.partition(":")[0] == NONE

    def __str__(self) -> str:
        return f"{self.key}: found {self.found_with_hint}; wants {self.wants}"

    @property
    def found_with_hint(self) -> str:
        """Value found, with the hint in parentheses."""
        return f"{self.found} ({self.hint})" if self.hint else self.found


class Log:
    """A log's records, in file order and by key."""

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self._by_key: dict[str, list[Record]] = {}
        for record in records:
            self._by_key.setdefault(record.key, []).append(record)

    @property
    def keys(self) -> Iterable[str]:
        """Keys, in the order of their first records."""
        return self._by_key.keys()

    def all(self, *keys: str) -> list[Record]:
        """Return all records of these keys, key by key."""
        return [record for key in keys for record in self._by_key.get(key, ())]

    def first(self, key: str) -> Record | None:
        """Return the key's first record, or None."""
        return next(iter(self.all(key)), None)

    def last(self, key: str) -> Record | None:
        """Return the key's last record, or None."""
        return next(reversed(self.all(key)), None)

    def value(self, key: str) -> Any:
        """Return the value of the key's first record, or None."""
        record = self.first(key)
        return record.value if record else None

    def whole(self, key: str) -> int | None:
        """Return the key's value if it is a whole number above 0, else None."""
        value = self.value(key)
        return int(value) if is_whole(value, 1) else None

    def followed(self, key: str, by: str) -> list[tuple[Record, list[Record]]]:
        """Return each record of `key` with the records of `by` between it and the next one of `key`."""
        found: list[tuple[Record, list[Record]]] = []
        for record in self.records:
            if record.key == key:
                found.append((record, []))
            elif record.key == by and found:
                found[-1][1].append(record)
        return found

    @property
    def is_closed(self) -> bool:
        """Whether the log is of the closed division; assumed if it names none."""
        return bool(self.value(constants.SUBMISSION_DIVISION) != constants.OPEN)

    @property
    def declared(self) -> list[str] | None:
        """Departures that the log declares (`MLPerfLog.describe`); None in logs of other projects."""
        division = self.first(constants.SUBMISSION_DIVISION)
        departures = division.metadata.get("departures") if division else None
        return [str(departure) for departure in departures] if isinstance(departures, list) else None

    @property
    def target(self) -> float:
        """Target validation loss of the run."""
        target = self.value(TARGET_ACCURACY)
        return float(target) if is_number(target) else rules.TARGET

    @property
    def schedule(self) -> tuple[int, int] | None:
        """Training sequences between evaluations, and before the first one; None without a batch size.

        The benchmark's schedule, unless a log of the open division declares its own.
        """
        batch = self.whole(constants.GLOBAL_BATCH_SIZE)
        if batch is None:
            return None
        samples = self.first(constants.EVAL_SAMPLES)
        declared = samples.metadata if samples and not self.is_closed else {}
        every, start = declared.get("eval_every"), declared.get("start_eval_at")
        every = int(every) if is_whole(every, 1) else rules.EVAL_EVERY
        start = int(start) if is_whole(start, 0) else 0
        interval = rules.steps_between_evaluations(every, batch) * batch
        return interval, max(1, math.ceil(start / interval)) * interval


def is_event(key: str) -> bool:
    """Return whether a key is of something that happens during a run, not of a setting."""
    return key in EVENTS or key.endswith(("_start", "_stop"))


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a JSON value is a number that is finite as a float; JSON integers have no upper limit."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_whole(value: object, least: int) -> TypeGuard[int | float]:
    """Return whether a value is a whole number >= `least` that a float holds exactly; some logs write 1.0 for 1."""
    return is_number(value) and value == int(value) and least <= value <= MOST_WHOLE


def shown(value: object) -> str:
    """Return a value as JSON, shortened to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(items: Sequence[str], separator: str = ", ", room: int = 300, noun: str = "") -> str:
    """Join the first items, as many as fit into `room` characters but at least one, and count the rest as `noun`s."""
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
    """Return how many records of a key there are, and their values if these differ."""
    different = sorted({shown(record.value) for record in records})
    if not records:
        return NONE
    return f"{len(records)} lines" + (f" that differ: {listed(different)}" if len(different) > 1 else "")
