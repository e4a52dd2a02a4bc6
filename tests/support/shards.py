"""`pytest --shard I/N`: only the I-th of N parts of the test files, for several processes; a plugin of conftest.py.

All parts together are all files: a file belongs to one part by its path.
"""

import zlib
from pathlib import Path

import pytest

OPTION = "--shard"


def part_of(value: str) -> tuple[int, int]:
    """Parse I/N. Raises ValueError if it is not 1/N to N/N."""
    number, _, count = value.partition("/")
    if not 1 <= int(number) <= int(count):
        raise ValueError(value)
    return int(number), int(count)


def is_in_part(path: Path, config: pytest.Config) -> bool:
    number, count = config.getoption(OPTION)
    return zlib.crc32(str(path.relative_to(config.rootpath)).encode()) % count == number - 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=part_of, default="1/1", metavar="I/N", help="the I-th of N parts of the test files")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the import of files of other parts; None leaves the decision to pytest."""
    return True if collection_path.is_file() and not is_in_part(collection_path, config) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of files that were named on the command line, which pytest collects nevertheless."""
    others = [item for item in items if not is_in_part(item.path, config)]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
