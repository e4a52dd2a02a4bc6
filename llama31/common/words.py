"""Figures as a person reads them."""

NOT_SAID = "not in the log"


def number(value: float | None, unit: str = "", digits: int = 0) -> str:
    """A figure with its unit, thousands set apart."""
    if value is None:
        return NOT_SAID
    return f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def minutes(seconds: float | None) -> str:
    """A time of many seconds in minutes, as MLPerf gives its scores; less than one in seconds."""
    if seconds is not None and abs(seconds) < 60:
        return number(seconds, "s", 1)
    return number(None if seconds is None else seconds / 60, "min", 2)


def milliseconds(seconds: float | None) -> str:
    """A step's time; from ten seconds on in seconds."""
    if seconds is not None and seconds >= 10:
        return number(seconds, "s", 1)
    return number(None if seconds is None else seconds * 1000, "ms", 1)


def percent(share: float | None) -> str:
    """A share of 1."""
    return NOT_SAID if share is None else f"{share:.1%}"


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def said(value: object) -> str:
    """What a log says under a key."""
    if value is None:
        return NOT_SAID
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
