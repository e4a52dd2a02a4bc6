"""Large figures in a person's words."""

PREFIXES = ("", "k", "M", "G", "T", "P")


def scaled(value: float, unit: str) -> str:
    """A figure of four digits with the prefix that fits it: 112.4 GB, 8.004 PFLOP."""
    prefix = 0
    while value >= 1000 and prefix < len(PREFIXES) - 1:
        value /= 1000
        prefix += 1
    return f"{value:.4g} {PREFIXES[prefix]}{unit}"
