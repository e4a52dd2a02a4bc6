"""Numbers, times and shares of the report as text."""

NOT_SAID = "not in the log"


def number(value: float | None, unit: str = "", digits: int = 0) -> str:
    """Return a number with its unit and thousands separators."""
    if value is None:
        return NOT_SAID
    return f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def minutes(seconds: float | None) -> str:
    """Return a time in minutes, as MLPerf scores are given; in seconds if it is less than a minute."""
    if seconds is not None and abs(seconds) < 60:
        return number(seconds, "s", 1)
    return number(None if seconds is None else seconds / 60, "min", 2)


def milliseconds(seconds: float | None) -> str:
    """Return a step time in milliseconds; in seconds from ten seconds on."""
    if seconds is not None and seconds >= 10:
        return number(seconds, "s", 1)
    return number(None if seconds is None else seconds * 1000, "ms", 1)


def percent(share: float | None) -> str:
    """Return a fraction as a percentage."""
    return NOT_SAID if share is None else f"{share:.1%}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: 1 run, 2 runs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def said(value: object) -> str:
    """Return the value of a log record as text."""
    if value is None:
        return NOT_SAID
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
