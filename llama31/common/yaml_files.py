"""Read YAML of others: only plain values, and nothing that crashes the parser or unfolds to much more than the file."""

from typing import Any

import yaml

DEEPEST = 100  # levels; libyaml's loader overflows the stack at some 100,000, which ends the process
MOST = 1_000_000  # values, each counted as often as aliases repeat it


def parsed(content: bytes) -> Any:
    """Return the value of a YAML document. Raises ValueError if it is none, too deep, or unfolds to too much."""
    try:
        _measure(content)
        return yaml.load(content, Loader=yaml.CSafeLoader)  # ten times faster than the one in Python
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())[:100]) from error
    except (AttributeError, KeyError, TypeError, OverflowError) as error:  # of its constructors, as for a wrong date
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _measure(content: bytes) -> None:
    """Raise ValueError for a document that would take too much, from its events, which take little."""
    sizes: dict[str, int] = {}  # of anchored values
    open_values = [("", 0)]  # anchor and values within, of each open list or object
    for event in yaml.parse(content, Loader=yaml.CSafeLoader):
        anchor, size = getattr(event, "anchor", None) or "", 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_values.append((anchor, 1))
            if len(open_values) > DEEPEST:
                raise ValueError(f"nested in more than {DEEPEST} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_values.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = "", sizes.get(anchor, 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor:
            sizes[anchor] = size
        outer, total = open_values[-1]
        open_values[-1] = (outer, total + size)
        if total + size > MOST:
            raise ValueError(f"more than {MOST:,} values")
