#!/usr/bin/env python3
"""Writes the README's tables of settings anew, from config.sh's groups and the docstrings of Settings.

python3 -m dev.settings_table
"""

import re
from pathlib import Path

from llama31.settings import Settings, documentation, names, shown

REPOSITORY = Path(__file__).resolve().parents[1]
README, CONFIG = REPOSITORY / "README.md", REPOSITORY / "config.sh"
BEGIN = "<!-- The tables of settings; python3 -m dev.settings_table writes them. -->"
END = "<!-- The end of the tables of settings. -->"


def groups() -> dict[str, list[str]]:
    """Heading in config.sh -> the names of the settings below it; the last has CONFIG_FILENAME, which has no line."""
    found = {}
    for paragraph in CONFIG.read_text(encoding="utf-8").split("\n\n"):
        if exported := re.findall(r"^export (\w+)=", paragraph, re.M):
            heading = paragraph.splitlines()[0].removeprefix("# ")
            found[heading] = exported
    found[heading].append("CONFIG_FILENAME")
    return found


def row(name: str) -> str:
    """A setting with its default and its meaning."""
    field = name.lower()
    default = shown(getattr(Settings(), field))
    cells = (f"`{name}`", f"`{default}`" if default else "", documentation()[field].replace("|", "\\|"))
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def tables() -> str:
    """All tables, in Markdown."""
    missing = set(names()) - {name for group in groups().values() for name in group}
    assert not missing, f"{CONFIG} does not export {', '.join(sorted(missing))}"
    return "\n\n".join(
        "\n".join([f"*{heading}*", "", "| Setting | Default | Meaning |", "| :-- | :-- | :-- |", *map(row, group)])
        for heading, group in groups().items()
    )


def renewed(text: str) -> str:
    """The README with the tables as they should be."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{README} lacks {BEGIN} or {END}"
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
