#!/usr/bin/env python3
"""Write docs/settings.md from the groups of config.sh and the docstrings of Settings.

python3 -m dev.settings_table
"""

import re
from pathlib import Path

from llama31.settings import Settings, documentation, names, shown

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIG = REPOSITORY / "config.sh"
PAGE = REPOSITORY / "docs" / "settings.md"
INTRODUCTION = """\
<!-- Generated: python3 -m dev.settings_table. Edit llama31/settings.py and config.sh instead. -->

# Settings

- Set values in `config.sh`, or override them for one run: `bash run_llama31.sh GBS=16 SEEDS=1234`.
- Precedence: command line, then environment, then default. An empty value selects the default.
- Switches take `0` or `1`. Paths may be relative to the current directory, or start with `~/`.
- Unknown names, invalid values, conflicting settings and missing files are rejected before anything starts, with one
  line per problem and a value that works.
- `bash run_llama31.sh --dryrun` prints every setting with its value and where the value came from.

The environment is where the exports of `config.sh` end up, so `source config.sh` comes before each command. The
configurations in `configs/` source `config.sh` themselves and then set the values of one system. Settings that the
closed division fixes can be changed for experiments; the run is then logged as open, with each departure listed in its
plan and its log (see [benchmark.md](benchmark.md#open-and-closed-division)).
"""


def groups() -> dict[str, list[str]]:
    """Return the headings of config.sh, each with the settings below it.

    The last group also gets CONFIG_FILENAME, which config.sh computes.
    """
    found = {}
    for paragraph in CONFIG.read_text(encoding="utf-8").split("\n\n"):
        if exported := re.findall(r"^export (\w+)=", paragraph, re.M):
            heading = paragraph.splitlines()[0].removeprefix("# ")
            found[heading] = exported
    found[heading].append("CONFIG_FILENAME")
    return found


def row(name: str) -> str:
    """Return the table row of a setting: name, default, meaning."""
    field = name.lower()
    default = shown(getattr(Settings(), field))
    cells = (f"`{name}`", f"`{default}`" if default else "", documentation()[field].replace("|", "\\|"))
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def page() -> str:
    """Return the whole page. Raises AssertionError for a setting that config.sh does not export."""
    missing = set(names()) - {name for group in groups().values() for name in group}
    assert not missing, f"{CONFIG} does not export {', '.join(sorted(missing))}"
    sections = (
        "\n".join([f"## {heading}", "", "| Setting | Default | Meaning |", "| :-- | :-- | :-- |", *map(row, group), ""])
        for heading, group in groups().items()
    )
    return "\n".join([INTRODUCTION, *sections])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
