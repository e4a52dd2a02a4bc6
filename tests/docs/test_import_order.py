"""The package's folders import in one direction, tests do not import tests, and dev imports no tests."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import REPOSITORY

ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
PACKAGE = REPOSITORY / "llama31"
_TABLE = ARCHITECTURE.read_text(encoding="utf-8").partition("## Folders and their order")[2].partition("\n## ")[0]
ORDER = re.findall(r"^\| `([\w.]+)` \|", _TABLE, re.M)
"""Folders and root modules of the package as docs/architecture.md lists them: each imports only from earlier ones."""
ROOT_MODULES = {"__init__", "__main__", "rules", "settings", "recipe", "train"}
TEST_MODULES = {file.stem for file in (REPOSITORY / "tests").rglob("*.py")}


def modules(package: Path) -> dict[str, Path]:
    """Python files of a package by their dotted names, the package's own name left out; `x.__init__` is `x`."""
    names = {}
    for file in package.rglob("*.py"):
        name = ".".join(file.relative_to(package).with_suffix("").parts)
        names[name.removesuffix(".__init__")] = file
    return names


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, also of those in functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: relative import; write the whole name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def room(module: str, known: dict[str, Path]) -> str:
    """Folder of a module; a root module stands for itself."""
    if known[module].name == "__init__.py":
        return module
    return module.rpartition(".")[0] or module


def arrows(package: Path) -> Iterator[tuple[str, str, str]]:
    """Importing folder, imported folder, and where; imports within a folder are left out."""
    known = modules(package)
    for name, file in known.items():
        for line, target in imported(file):
            if target.partition(".")[0] != package.name:
                continue
            inner = target.partition(".")[2]
            while inner and inner not in known:  # a name defined in a module
                inner = inner.rpartition(".")[0]
            source, target_room = room(name, known), room(inner or "__init__", known)
            if source != target_room:
                yield source, target_room, f"{file.relative_to(package.parent)}:{line}"


def upward(package: Path, order: list[str]) -> list[str]:
    """Lines that say where a folder imports from one that is not before it in `order`."""
    position = {name: number for number, name in enumerate(order)}
    return [
        f"{where}: {source} imports {target}, which comes after it in docs/architecture.md"
        for source, target, where in arrows(package)
        if position.get(target, len(order)) > position.get(source, -1)
    ]


def test_each_folder_imports_only_from_those_before_it() -> None:
    assert upward(PACKAGE, ORDER) == []


def test_the_order_lists_every_folder_and_root_module_once() -> None:
    known = modules(PACKAGE)
    rooms = {room(name, known) for name in known} - {"mlperf"}  # a folder of folders
    assert sorted(ORDER) == sorted(rooms), "docs/architecture.md lists the folders of llama31/; add or remove the row"


def test_nothing_else_stands_beside_the_folders() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} == ROOT_MODULES, (
        "put a new module into the folder it belongs to"
    )


def test_no_class_name_occurs_twice() -> None:
    where = defaultdict(list)
    for file in modules(PACKAGE).values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(f"{file.relative_to(REPOSITORY)}:{node.lineno}")
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_tests_import_no_tests_and_dev_imports_none() -> None:
    found = []
    for folder in ("dev", "tests"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            own = TEST_MODULES if folder == "dev" else {name for name in TEST_MODULES if name.startswith("test_")}
            names = ((line, name.partition(".")[0]) for line, name in imported(file))
            found += [f"{file.relative_to(REPOSITORY)}:{line}" for line, name in names if name in {*own, "tests"}]
    assert found == [], "move what is shared to tests/support, or to dev if dev needs it"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("from package.low import a", 0),
        ("from package.high.top import b", 1),
        ("import package.high.top", 1),
        ("def f():\n    from package import high", 1),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from package.high import top", 1),
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(line: str, wrong: int, tmp_path: Path) -> None:
    package = tmp_path / "package"
    for name in ("low", "middle", "high"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "low" / "a.py").touch()
    (package / "high" / "top.py").touch()
    (package / "middle" / "m.py").write_text(line)
    assert len(upward(package, ["low", "__init__", "middle", "high"])) == wrong
