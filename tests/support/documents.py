"""README.md and the pages of docs/ as tests read them: code blocks, tables, headings; and bash for their commands."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from checkout import REPOSITORY

from llama31.settings import names

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs").glob("*.md"))
DOCUMENTS = (README, *PAGES)

Table = list[dict[str, str]]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def page(name: str) -> Path:
    """A page of docs/ by its name without extension."""
    return REPOSITORY / "docs" / f"{name}.md"


def text(document: Path) -> str:
    """Text of a document."""
    return document.read_text(encoding="utf-8")


def flowing(document: Path) -> str:
    """Its text with a single space for each line break and indentation."""
    return re.sub(r"\s+", " ", text(document))


def blocks(document: Path, language: str) -> list[str]:
    """Fenced code blocks of a language, without the indentation that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text(document), re.M | re.S)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def code(document: Path) -> str:
    """Everything in backticks or in a bash block, without comments."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text(document), flags=re.M | re.S)
    commands = [re.sub(r"\s# .*", "", block) for block in blocks(document, "bash")]
    return "\n".join([*re.findall(r"`([^`]+)`", prose), *commands])


def tables(document: Path) -> Iterator[Table]:
    """Tables of a document, each row as column title -> cell."""
    for lines in re.findall(r"(?:^\|.*\|\n)+", text(document), re.M):
        titles, _, *rows = (
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines.splitlines()
        )
        yield [dict(zip(titles, row, strict=True)) for row in rows]


def table(document: Path, title: str) -> Table:
    """Rows of all tables of a document whose first column has this title."""
    found = [row for rows in tables(document) if next(iter(rows[0])) == title for row in rows]
    assert found, f"no table of {document.name} begins with {title!r}"
    return found


def anchors(document: Path) -> set[str]:
    """Targets of links into a document: its headings, in GitHub's form."""
    headings = re.findall(r"^#+ (.+)$", text(document), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def number(cell: str) -> float:
    """A figure of a table."""
    return float(cell.replace(",", ""))


def shown(value: object) -> str:
    """A value of the code as tables show it."""
    if isinstance(value, int):
        return f"{value:,}"
    return re.sub(r"e([-+])0+", r"e\1", f"{value:g}") if isinstance(value, float) else str(value)


def identifier(words: str) -> str:
    """Words of a table as a name in the code: Key-value heads -> key_value_heads."""
    return re.sub(r"[ -]", "_", words).lower()


def bash(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script in `directory`, without settings in its environment."""
    kept = {
        name: value for name, value in os.environ.items() if name not in names() and not name.startswith("LLAMA31_")
    }
    command = ["bash", "-euc", script]
    return subprocess.run(command, cwd=directory, env=kept, capture_output=True, text=True, timeout=60, check=False)


@cache
def exported_by(config: str) -> dict[str, str]:
    """Variables of an environment that sourced a config file."""
    done = bash(f"source {config}; env -0", REPOSITORY)
    assert done.returncode == 0, done.stderr
    return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry)
