"""Import only what training uses: the modules of `deferred_modules` are imported when something asks for them.

A rank's start is importing: NeMo imports every model, recipe, launcher and tracker that it has, and these import
thousands of modules. `install` puts a finder before Python's own for all later imports of this process. No file of NeMo
or Megatron is touched. There are two kinds of deferred modules:

UNUSED      A module that is executed when an attribute of it is first read, in the object that its importers hold. The
            names listed with it get stand-ins (`stand_in`), for modules that execute `from m import name` without using
            the object.
REEXPORTS   A package whose `__init__` is executed without the lines that import names from its own modules. Such a name
            is imported when it is first read.

A module that is not installed raises ModuleNotFoundError as ever, so that `try: import ...` finds the same packages.
`late_uses` does the same for the compiler of torch.
"""

import ast
import contextlib
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from llama31.common import late_uses, stand_in
from llama31.common.deferred_modules import REEXPORTS, UNUSED

_lock = threading.RLock()
_used: set[str] = set()
"""Entries of UNUSED that something has used: their modules are imported as usual from then on."""
_deferred: dict[str, "_Deferred"] = {}
"""Modules that were imported and are not executed yet, by name."""
_executing: set[str] = set()
"""Names of the modules that are being executed in this moment."""


def install() -> None:
    """Defer imports in this process from now on. Modules that are loaded already stay as they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def remove() -> None:
    """Import as usual from now on. Modules that are deferred already stay so."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def _entry(name: str) -> str:
    """Return the entry of UNUSED to which a module belongs: itself or a package around it; "" if there is none."""
    while name and name not in UNUSED:
        name = name.rpartition(".")[0]
    return name


class _Finder(MetaPathFinder):
    """Finds the modules of the tables before Python's own finders do."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a specification with a loader of this package; None for all other modules."""
        loader: type[_Wrapped]
        if fullname in REEXPORTS:
            loader = _Reexporting
        elif fullname in _deferred or ((entry := _entry(fullname)) and entry not in _used):
            loader = _Deferring
        elif fullname in late_uses.CHANGES:
            loader = _Changed
        else:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = loader(spec.loader)
        return spec


class _Wrapped(Loader):
    """A loader that has another one do most of its work."""

    def __init__(self, real: SourceFileLoader):
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)  # get_source, get_data, ...

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None, for Python's default."""
        return None


class _Changed(_Wrapped):
    """Executes a module of `late_uses` and changes it."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module and change it."""
        self.real.exec_module(module)
        late_uses.CHANGES[module.__name__](module)


class _Reexporting(_Wrapped):
    """Executes `__init__` of a package without the imports from its own modules."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute `__init__`, and have what it does not import be imported when it is read."""
        tree = ast.parse(self.real.get_source(module.__name__) or "")
        names: dict[str, tuple[str, str]] = {}
        stars: list[str] = []
        for block in _blocks(tree):
            for node in [node for node in block if isinstance(node, ast.ImportFrom)]:
                source = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__name__)
                if f"{source}.".startswith(f"{module.__name__}."):
                    block[block.index(node)] = ast.copy_location(ast.Pass(), node)
                    names |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
                    stars += [source for alias in node.names if alias.name == "*"]
        vars(module)["__getattr__"] = functools.partial(_reexported, module, names, stars)
        exec(compile(tree, module.__file__ or "", "exec"), vars(module))


def _blocks(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    """Return the lists of statements that `__init__` executes; those with a condition patch other packages."""
    tree.body = [node for node in tree.body if not isinstance(node, ast.If)]
    yield tree.body
    for node in tree.body:
        if isinstance(node, ast.Try):
            yield node.body


def _reexported(package: ModuleType, names: dict[str, tuple[str, str]], stars: Sequence[str], name: str) -> Any:
    """Import what the `__init__` of a package would have imported by this name, or a submodule."""
    source, original = names.get(name, (package.__name__, name))
    if source != package.__name__:
        found = getattr(importlib.import_module(source), original)
    elif name.startswith("__") and name != "__version__":
        raise AttributeError(name)
    elif importlib.util.find_spec(f"{source}.{original}"):
        found = importlib.import_module(f"{source}.{original}")
    else:
        for star in sorted(stars, key=lambda star: (name not in UNUSED.get(star, ()), star in UNUSED)):
            module = importlib.import_module(star)
            if name in UNUSED.get(star, ()) or name in getattr(module, "__all__", ()):
                return getattr(module, name)
        raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
    if not isinstance(found, stand_in.StandIn):
        vars(package)[name] = found
    return found


class _Deferring(_Wrapped):
    """Defers a module, or executes it in the object that deferred it, if its entry is used by now."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the object of the module."""
        return _deferred.setdefault(spec.name, _Deferred(spec.name))

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module if its entry is used."""
        if _entry(module.__name__) in _used:
            assert module.__spec__
            module.__spec__.loader = module.__loader__ = self.real
            _executing.add(module.__name__)
            try:
                self.real.exec_module(module)
            finally:
                _executing.remove(module.__name__)
            if type(module) is _Deferred:  # some modules give themselves another class
                module.__class__ = ModuleType  # type: ignore[assignment]
            if change := late_uses.CHANGES.get(module.__name__):
                change(module)
            del _deferred[module.__name__]


def _use(entry: str) -> None:
    """Execute the deferred modules of an entry, and import its modules as usual from now on."""
    with _lock:
        _used.add(entry)
        names = [name for name in _deferred if _entry(name) == entry]
        # Found neither in sys.modules nor in their packages, they are executed in the order in which they import each
        # other.
        found = [*names, *_namespaces(entry)]
        for name in found:
            parent, _, child = name.rpartition(".")
            if holder := _deferred.get(parent) or sys.modules.get(parent):
                vars(holder).pop(child, None)
        for name in found:
            sys.modules.pop(name, None)
        for name in names:
            with contextlib.suppress(ImportError):  # raised again where something reads this module
                _execute(name)
        stand_in.replace(entry)


def _namespaces(entry: str) -> list[str]:
    """Return the packages of an entry without `__init__`: never deferred, and useless without those around them."""
    held = {name: vars(module) for name, module in list(sys.modules.items()) if _entry(name) == entry}
    return [name for name, names in held.items() if "__path__" in names and not names.get("__file__")]


def _execute(name: str) -> None:
    """Execute a deferred module, unless it is executed already or in this moment."""
    if name in _deferred and name not in _executing:
        importlib.import_module(name)


def _executed(module: ModuleType, name: str) -> Any:
    """Return an attribute of a module of UNUSED, which this executes if need be."""
    entry = _entry(module.__name__)
    with _lock:
        if entry not in _used:
            _use(entry)
        _execute(module.__name__)  # if its turn has not come, or if it raised an error
    return ModuleType.__getattribute__(module, name)


class _Deferred(ModuleType):
    """A module that is not executed yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(name)  # someone looks what kind of object this is
        entry = _entry(self.__name__)
        if entry not in _used:
            frame = sys._getframe(1)
            if frame.f_code.co_name == "_handle_fromlist":
                raise AttributeError(name)  # `from m import name`: Python looks for a submodule next
            if name in UNUSED[entry][1:]:
                self._forget()
                return stand_in.stand_in(entry, self.__name__, name, functools.partial(_executed, self, name), frame)
        return _executed(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        entry = _entry(self.__name__)
        if name.startswith("__") or isinstance(value, ModuleType) or entry in _used:  # Python binds submodules
            ModuleType.__setattr__(self, name, value)
        else:
            _use(entry)
            setattr(self, name, value)  # which is of another class now

    def _forget(self) -> None:
        """Undo the import, for code that asks `sys.modules`; who imports the module again gets the same object."""
        name = self.__name__
        while name in _deferred:
            parent, _, child = name.rpartition(".")
            sys.modules.pop(name, None)
            vars(sys.modules.get(parent, self)).pop(child, None)
            name = parent
