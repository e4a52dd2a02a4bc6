"""Modules of the table are executed when they are used, and training's objects are the same with all imports."""

import difflib
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from runs import REPOSITORY, SUPPORT, environment

from llama31.common import deferred_imports, stand_in
from llama31.common.deferred_modules import REEXPORTS, UNUSED

FILES = {
    "unused_one/__init__.py": "import executed\nexecuted.names.append(__name__)\nfrom unused_one.part import Thing\n",
    "unused_one/part.py": "import executed\nexecuted.names.append(__name__)\nclass Thing(ValueError):\n    size = 3\n",
    "unused_one/damaged.py": "raise ImportError('damaged')\n",
    "unused_one/base.py": "import executed\nexecuted.names.append(__name__)\nready = 1\n",
    "unused_one/upper.py": (
        "import executed\nfrom unused_one import base\n"
        "executed.names.append(__name__ if 'unused_one.base' in executed.names else 'too early')\n"
    ),
    "executed.py": "names = []\n",
    "importer.py": (
        "import unused_one, unused_one.part\n"
        "from unused_one.part import Thing as Renamed\n"
        "def annotated(thing: Renamed | None) -> Renamed: ...\n"
        "def caught():\n"
        "    try:\n"
        "        raise KeyError\n"
        "    except Renamed:\n"
        "        return 'the stand-in'\n"
        "    except KeyError:\n"
        "        return 'KeyError'\n"
    ),
    "reexporting/__init__.py": "from reexporting.one import first as renamed\nfrom .two import *\nown = 1\n",
    "reexporting/one.py": "import executed\nexecuted.names.append(__name__)\nfirst = 'first'\n",
    "reexporting/two.py": "import executed\nexecuted.names.append(__name__)\n"
    "__all__ = ['second']\nsecond, third = 2, 3\n",
    "reexporting/three.py": "",
}


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of each kind in the table."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(UNUSED, "unused_one", ("a test", "Thing"))
    monkeypatch.setitem(UNUSED, "missing_one", ("a test",))
    monkeypatch.setitem(REEXPORTS, "reexporting", "a test")
    monkeypatch.setattr(deferred_imports, "_used", set())
    monkeypatch.setattr(deferred_imports, "_deferred", {})
    monkeypatch.setattr(stand_in, "_made", [])
    before = set(sys.modules)
    deferred_imports.install()
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def executed() -> list[str]:
    names: list[str] = importlib.import_module("executed").names
    return names


def test_executed_at_the_first_use() -> None:
    importer = importlib.import_module("importer")
    held: ModuleType = importer.unused_one
    assert executed() == []
    assert held.part is importlib.import_module("unused_one.part")
    assert held.part.Thing.size == 3
    assert executed() == ["unused_one", "unused_one.part"]
    assert sys.modules["unused_one"] is held
    assert type(held) is ModuleType
    assert held.Thing is held.part.Thing is importer.Renamed


def test_stand_in_until_it_is_used() -> None:
    importer = importlib.import_module("importer")
    assert "unused_one.part" not in sys.modules, "code that asks whether it is imported gets the true answer"
    found = importer.Renamed
    assert not isinstance(ValueError(), found)
    assert not issubclass(ValueError, found)
    assert importer.caught() == "KeyError"
    assert importer.annotated.__annotations__["thing"] == found | None
    assert executed() == []
    assert isinstance(found("text"), ValueError), "a call makes an object of the real class"
    assert executed() == ["unused_one", "unused_one.part"]
    assert importer.Renamed is sys.modules["unused_one.part"].Thing
    assert isinstance(importer.Renamed(), found), "who copied the stand-in can still ask"


def test_class_derived_from_a_stand_in() -> None:
    found = importlib.import_module("importer").Renamed
    derived = type(found)("Derived", (found,), {"more": 4})
    assert (derived.size, derived.more) == (3, 4)
    assert derived.__mro__[1] is sys.modules["unused_one.part"].Thing


def test_attribute_set_before_the_first_use() -> None:
    module = importlib.import_module("unused_one.part")
    module.Thing = "patched"
    assert executed() == ["unused_one", "unused_one.part"]
    assert module.Thing == "patched"


def test_missing_and_damaged_modules() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("missing_one")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("unused_one.missing")
    damaged = importlib.import_module("unused_one.damaged")
    for _ in range(2):
        with pytest.raises(ImportError, match="damaged"):
            _ = damaged.anything
    with pytest.raises(AttributeError):
        _ = importlib.import_module("unused_one.part").anything


def test_reexports() -> None:
    package = importlib.import_module("reexporting")
    assert (package.own, executed()) == (1, [])
    assert package.three is sys.modules["reexporting.three"]
    assert (package.renamed, executed()) == ("first", ["reexporting.one"])
    assert (package.second, executed()) == (2, ["reexporting.one", "reexporting.two"])
    with pytest.raises(AttributeError):
        _ = package.third


def described(option: str) -> dict[str, Any]:
    """What a process that imports the recipe says, see recipe_objects.py."""
    command = [sys.executable, "-W", "ignore", str(SUPPORT / "recipe_objects.py"), option]
    env = {**environment(), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_a_module_imports_is_executed_before_it() -> None:
    """As protocol buffers need it, of which one's definition refers to the other's."""
    upper, base = importlib.import_module("unused_one.upper"), importlib.import_module("unused_one.base")
    assert base.ready == 1
    import executed

    assert executed.names[-2:] == ["unused_one.base", "unused_one.upper"], upper


@pytest.mark.slow
def test_recipes_are_the_same_with_all_imports() -> None:
    """And what is deferred is there when asked for."""
    light, full = described("deferred"), described("all")
    for ours, stock in zip(light["recipes"], full["recipes"], strict=True):
        assert ours == stock, "\n".join(difflib.unified_diff(stock.splitlines(), ours.splitlines(), n=0))
    assert light["modules"] <= 0.5 * full["modules"]
    assert set(light["deferred"]) >= {"modelopt", "wandb", "sklearn", "pandas"}
    assert light["stand-ins"] == light["real"], "each name in the table is a class or a function"
    assert light["used"] == full["used"]
