"""Ten logs that are changed, and then judged as plain files, compressed or within a job's output."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from submissions import NEWEST, TOKEN, officially_packaged

from llama31.mlperf.check import submission
from llama31.mlperf.check.submission import SubmissionCheck
from llama31.mlperf.log import reader

Record = dict[str, Any]
Change = Callable[[list[Record]], list[Record]]


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "job": lambda content: b"".join(
        b" 0: " + line + b"\n 7: step 3\r 7: step 4\r\n[NeMo I] 63% |#### |\n" for line in content.splitlines()
    ),
}


class Logs:
    """Ten logs, to be changed, and then judged in one form."""

    def __init__(self, directory: Path, form: str):
        self.form = form
        self.files = sorted(directory.iterdir())

    def change(self, change: Change, *numbers: int) -> None:
        """Changes the records of these logs, or of all."""
        for number in numbers or range(len(self.files)):
            records = [json.loads(line.removeprefix(TOKEN)) for line in self.files[number].read_text().splitlines()]
            self.files[number].write_text("".join(TOKEN + json.dumps(record) + "\n" for record in change(records)))

    def judge(self, *, accepted: bool, ruleset: str = NEWEST) -> tuple[SubmissionCheck, str]:
        """The verdict, and what is printed; first the logs get their form, and MLCommons' checker must agree."""
        for file in self.files:
            file.write_bytes(FORMS[self.form](file.read_bytes()))
        assert officially_packaged(self.files, ruleset, self.files[0].parent.parent / "tree") == accepted
        found = submission.judge(self.files, ruleset)
        text = "\n".join(submission.lines(found))
        assert found.is_accepted == accepted, f"say what MLCommons' checker says:\n{text}"
        return found, text

    def line(self, number: int, key: str, nth: int = 0) -> int:
        """Number of the nth line of a key, in the form that was judged."""
        return reader.read(self.files[number])[0].all(key)[nth].number


def event(record: Record, key: str, value: Any = None, **metadata: Any) -> Record:
    """Another record at the time of one, and by the same line of code."""
    place = {name: record["metadata"][name] for name in ("file", "lineno")}
    return {**record, "key": key, "value": value, "metadata": {**place, **metadata}}


def said(key: str, value: Any) -> Change:
    """Set a key to another value."""
    return lambda records: [{**one, "value": value} if one["key"] == key else one for one in records]


def lacking(key: str) -> Change:
    return lambda records: [one for one in records if one["key"] != key]


def late(records: list[Record]) -> list[Record]:
    """Log the run's settings after run_start, as in tinygrad's logs."""
    start = [record["key"] for record in records].index("init_stop")
    first = [record for record in records[:start] if record["key"].startswith(("cache", "init_start", "submission"))]
    described = [record for record in records[:start] if record not in first]
    return [*first, *records[start : start + 2], *described, *records[start + 2 :]]


def with_one_more(records: list[Record]) -> list[Record]:
    """An additional evaluation, soon after the start."""
    first = [record["key"] for record in records].index("block_stop")
    stop = records[first]
    names = ("block_stop", "eval_start", "eval_accuracy", "eval_stop", "block_start")
    more = [event(stop, name, 9.0 if name == "eval_accuracy" else None, samples_count=384) for name in names]
    return [*records[:first], *more, *records[first:]]
