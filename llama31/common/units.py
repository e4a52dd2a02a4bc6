"""Numbers and durations as text."""

PREFIXES = ("", "k", "M", "G", "T", "P")


def scaled(value: float, unit: str) -> str:
    """Return a number to four digits with a decimal prefix: 112.4 GB, 8.004 PFLOP."""
    prefix = 0
    while value >= 1000 and prefix < len(PREFIXES) - 1:
        value /= 1000
        prefix += 1
    return f"{value:.4g} {PREFIXES[prefix]}{unit}"


def size(count: float) -> str:
    """Return a number of bytes as text: 112.4 GB."""
    return scaled(count, "B")


def duration(seconds: float) -> str:
    """Return a duration as h:mm:ss, with as many hours as it has."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
