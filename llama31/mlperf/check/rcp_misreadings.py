"""Find lines that MLCommons' rcp_checker mistakes for others: it searches their text (see `rules.RCP_WORDS`)."""

from collections.abc import Iterator

from mlperf_logging.mllog import constants

from llama31.mlperf.log.records import Log, Record, Violation

_VALUES = {constants.GLOBAL_BATCH_SIZE: "the batch size", constants.SUBMISSION_BENCHMARK: "the benchmark"}
"""Words for which rcp_checker takes the value of the last line that contains them; for others, the samples_count."""
_SAMPLES = "the samples to converge"


def findings(log: Log) -> Iterator[Violation]:
    """Yield lines that change what rcp_checker reads."""
    for record, word in _misread(log):
        if _changes(log, record, word):
            wants = f"a line without this word, from which rcp_checker takes {_VALUES.get(word, _SAMPLES)}"
            yield Violation(record.key, f"{word} in line {record.number}", wants)


def notes(log: Log) -> Iterator[str]:
    """Yield misread lines without effect, the first for each key and word."""
    harmless = [(record, word) for record, word in _misread(log) if not _changes(log, record, word)]
    first = {(record.key, word): record.number for record, word in reversed(harmless)}
    for (key, word), number in reversed(first.items()):
        taken = _VALUES.get(word, _SAMPLES)
        yield f"{key}: {word} in line {number}; rcp_checker takes {taken} there too, with no effect"


def _misread(log: Log) -> Iterator[tuple[Record, str]]:
    for record in log.records:
        yield from ((record, word) for word in record.rcp_words if word != record.key)


def _changes(log: Log, record: Record, word: str) -> bool:
    if word in _VALUES:
        own = log.last(word)
        return own is None or (own.number < record.number and own.value != record.value)
    if record.samples is None:
        return True  # rcp_checker ends with KeyError
    end, own = log.last(constants.RUN_STOP), log.last(constants.EVAL_ACCURACY)
    is_last = own is None or own.number < record.number
    return is_last and (end is None or record.number <= end.number) and (own is None or own.samples != record.samples)
