"""Import only what training uses: other modules are imported when something asks for them.

A rank's start is importing. NeMo's packages import every model, recipe, launcher and tracker they have, and these import
hundreds of modules each. `install` changes three things for all later imports in this process; `light_imports_table`
names the modules with the reasons, and no file of NeMo or Megatron is touched:

UNUSED      An import returns a module that is executed at its first use. `from m import name` in the body of a module
            binds a stand-in for the name, which imports `m` when it is called, subclassed or read.
REEXPORTS   `__init__` is not executed. A name is imported from the module from which `__init__` would import it.
            `__init__` is executed if a name is asked for that it defines itself.
COMPILED    `torch.compile` of a function imports the compiler when the function is first called.

A module that is not installed raises ModuleNotFoundError as ever, so `try: import ...` finds the same packages.
"""

import ast
import builtins
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader
from opcode import opmap
from types import FrameType, ModuleType
from typing import Any, Union

from llama31.common.light_imports_table import COMPILED, REEXPORTS, UNUSED

READ = ("__name__", "__qualname__", "__doc__", "__init__", "__signature__")
"""Attributes with underscores whose reading imports the object."""
_lock = threading.RLock()
_used: set[str] = set()
"""Entries of UNUSED that have been used: their modules are imported as usual from then on."""

_awaited: dict[str, ModuleType] = {}
"""Modules that are being imported into objects that exist already."""


def install() -> None:
    """Defer imports in this process from now on. Modules that are loaded already stay as they are."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def remove() -> None:
    """Import as usual from now on. Modules that are deferred already stay so."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def is_deferred(name: str) -> bool:
    """Return whether a module in `sys.modules` has not been executed yet."""
    return isinstance(sys.modules.get(name), _Deferred)


def _entry(name: str) -> str | None:
    """Return the entry of UNUSED to which a module belongs: the module itself or a package around it."""
    while name:
        if name in UNUSED:
            return name
        name = name.rpartition(".")[0]
    return None


class _Finder(MetaPathFinder):
    """Finds the modules of the table before Python's own finders do."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a specification with a loader of this module; None for all other modules."""
        kind: type[_Deferred]
        if awaited := _awaited.pop(fullname, None):
            spec = PathFinder.find_spec(fullname, path, target)
            if spec and spec.loader:
                spec.loader = _InPlace(spec.loader, awaited)
            return spec
        if fullname in REEXPORTS:
            kind = _Package
        elif fullname in COMPILED:
            spec = PathFinder.find_spec(fullname, path, target)
            if spec and spec.loader:
                spec.loader = _CompileLater(spec.loader)
            return spec
        elif (entry := _entry(fullname)) and entry not in _used:
            kind = _Deferred
        else:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if not spec or not spec.loader or isinstance(spec.loader, ExtensionFileLoader):
            return None
        spec.loader = _Loader(spec.loader, kind)
        return spec


class _Loader(Loader):
    """Makes a module of another class in place of executing it."""

    def __init__(self, loader: Loader, kind: "type[_Deferred]"):
        self.loader = loader
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # get_source, get_data, ... of the real one

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None, for Python's default."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Defer the execution of the module."""
        module.__class__ = self.kind
        self.kind.begin(module)  # type: ignore[arg-type]


def _execute(module: ModuleType) -> None:
    """Execute the real `__init__` of a package in place."""
    with _lock:
        if isinstance(module, _Package):
            _import_in_place({module.__name__: module})


def _use(entry: str) -> None:
    """Import all modules of an entry that were deferred, and import its modules as usual from now on."""
    with _lock:
        if entry in _used:
            return
        _used.add(entry)
        _import_in_place({name: m for name, m in sys.modules.items() if type(m) is _Deferred and _entry(name) == entry})


def _import_in_place(modules: dict[str, ModuleType]) -> None:
    """Import deferred modules, into the same objects, so that those who hold them see their contents."""
    _awaited.update(modules)
    for name in modules:
        del sys.modules[name]
    for name in modules:
        importlib.import_module(name)


class _InPlace(Loader):
    """Executes a module in an object that exists already."""

    def __init__(self, loader: Loader, module: ModuleType):
        self.loader = loader
        self.module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the object, empty."""
        self.module.__class__ = ModuleType
        vars(self.module).clear()
        spec.loader = self.loader
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Unused: `create_module` puts the real loader in this one's place."""
        raise AssertionError


class _Deferred(ModuleType):
    """A module that is executed at the first use of an attribute."""

    @classmethod
    def begin(cls, module: "_Deferred") -> None:
        """Do what has to be done at import."""

    def __getattr__(self, name: str) -> Any:
        if _is_special(name) and name not in ("__all__", "__version__"):
            raise AttributeError(name)
        entry = _entry(self.__name__)
        assert entry
        if entry not in _used:
            frame = sys._getframe(1)
            if _is_from_list(frame):
                raise AttributeError(name)  # Python looks for a submodule of this name next
            if _is_import_in_module_body(frame):
                return _Name(self, name, frame.f_globals)
            if frame.f_code.co_name == "safe_import_from":  # NeMo's, which module bodies call
                return _Name(self, name, {})
        _use(entry)
        return getattr(sys.modules[self.__name__], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, ModuleType) and not _is_special(name):  # Python binds submodules so
            _use(_entry(self.__name__) or "")
        super().__setattr__(name, value)


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_from_list(frame: FrameType) -> bool:
    return frame.f_code.co_name == "_handle_fromlist"


def _is_import_in_module_body(frame: FrameType) -> bool:
    """Return whether a frame executes `from m import name` outside functions and classes."""
    code = frame.f_code
    return code.co_name == "<module>" and code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]


def _resolved(module: ModuleType, name: str) -> Any:
    """Return an attribute of a module, executing it if it is deferred, or a submodule of it."""
    if isinstance(module, _Deferred):
        _use(_entry(module.__name__) or "")
    try:
        return getattr(module, name)
    except AttributeError:
        return importlib.import_module(f"{module.__name__}.{name}")


class _Name:
    """Stand-in for an object of a deferred module; importing it is the first use that needs the object itself."""

    def __init__(self, module: ModuleType, name: str, importer: dict[str, Any]):
        vars(self).update(_module=module, _name=name, _importer=importer)

    def _object(self) -> Any:
        """Import the object, and put it in this stand-in's place in the module that imported it."""
        found = vars(self).get("_found")
        if found is None:
            found = _resolved(self._module, self._name)
            if isinstance(found, _Name):
                found = found._object()
            vars(self)["_found"] = found
            for name, value in list(self._importer.items()):
                if value is self:
                    self._importer[name] = found
        return found

    def _is_imported(self) -> bool:
        return not isinstance(self._module, _Deferred)

    def __getattr__(self, name: str) -> Any:
        if _is_special(name) and name not in READ and not self._is_imported():
            raise AttributeError(name)  # typing and inspect ask what kind of annotation this is: a plain object
        return getattr(self._object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._object(), name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._object()(*arguments, **keywords)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._object(),)

    def __instancecheck__(self, instance: object) -> bool:
        # The class does not exist yet, so nothing is an instance of it.
        return self._is_imported() and isinstance(instance, self._object())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._is_imported() and issubclass(subclass, self._object())

    def __getitem__(self, key: Any) -> Any:
        return self._object()[key]

    def __or__(self, other: Any) -> Any:
        return Union[self, other]  # noqa: UP007 - an annotation

    def __ror__(self, other: Any) -> Any:
        return Union[other, self]  # noqa: UP007

    def __bool__(self) -> bool:
        return bool(self._object())

    def __iter__(self) -> Any:
        return iter(self._object())

    def __len__(self) -> int:
        return len(self._object())

    def __contains__(self, item: Any) -> bool:
        return item in self._object()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _resolved_by_name, (self._module.__name__, self._name)

    def __repr__(self) -> str:
        return f"<{self._module.__name__}.{self._name}, imported at its first use>"


def _resolved_by_name(module: str, name: str) -> Any:
    return _resolved(importlib.import_module(module), name)


class _Package(_Deferred):
    """A package whose names are imported one by one, in place of all by its `__init__`."""

    @classmethod
    def begin(cls, module: _Deferred) -> None:
        """Note from where `__init__` imports each name, without executing it."""
        spec = module.__spec__
        assert spec and isinstance(spec.loader, _Loader) and isinstance(spec.loader.loader, SourceFileLoader)
        source = spec.loader.loader.get_source(module.__name__)
        tree = ast.parse(source or "")
        sources = _sources(tree, module.__name__)
        vars(module).update(_sources=sources, _values=_values(tree), _stars=[])
        if star := sources.pop("*", None):
            vars(module)["_stars"].append(star[0])

    def __getattr__(self, name: str) -> Any:
        if _is_special(name) and name not in ("__all__", "__version__"):
            raise AttributeError(name)
        for star in vars(self)["_stars"]:
            if name in _exported(star):
                return getattr(importlib.import_module(star), name)
        source = vars(self)["_sources"].get(name)
        if source:
            module = importlib.import_module(source[0])
            try:
                found = module if source[1] is None or module is self else getattr(module, source[1])
            except AttributeError:
                found = importlib.import_module(f"{source[0]}.{source[1]}")
            if found is not self:
                vars(self)[name] = found
                return found
        if expression := vars(self)["_values"].get(name):
            vars(self)[name] = value = eval(compile(expression, self.__file__ or "", "eval"), vars(self), _Names(self))
            return value
        if _is_from_list(sys._getframe(1)):
            if importlib.util.find_spec(f"{self.__name__}.{name}"):
                raise AttributeError(name)  # Python imports the submodule next
        elif not _is_special(name) and importlib.util.find_spec(f"{self.__name__}.{name}"):
            return importlib.import_module(f"{self.__name__}.{name}")
        _execute(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        ModuleType.__setattr__(self, name, value)


def _exported(name: str) -> Sequence[str]:
    """Return the names that `from m import *` binds."""
    module = importlib.import_module(name)
    names: Sequence[str] = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    return names


class _Names(dict[str, Any]):
    """Names of a package in an expression of its `__init__`."""

    def __init__(self, package: ModuleType):
        super().__init__()
        self.package = package

    def __missing__(self, name: str) -> Any:
        if name in vars(builtins):
            raise KeyError(name)
        return getattr(self.package, name)


def _values(tree: ast.Module) -> dict[str, ast.Expression]:
    """Return the expression of each name that the top level assigns just once, other than `__all__`."""
    found: dict[str, ast.Expression] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.Expression(node.value)
    return found


def _sources(tree: ast.Module, package: str) -> dict[str, tuple[str, str | None]]:
    """Return the module and the name there of each name that the top level of a package's `__init__` imports."""
    found: dict[str, tuple[str, str | None]] = {}
    body = [inner for node in tree.body for inner in (node.body if isinstance(node, ast.Try) else [node])]
    for node in body:
        if isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                found[alias.asname or alias.name] = (module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                found[name] = (alias.name if alias.asname else name, None)
    return found


class _CompileLater(Loader):
    """Executes megatron.core.jit, and has its decorator compile a function when it is first called."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return None, for Python's default."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module and wrap its decorator, if that is torch's compiler."""
        import torch

        self.loader.exec_module(module)
        if vars(module).get("jit_fuser") is torch.compile:
            vars(module)["jit_fuser"] = compile_later


def compile_later(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that compiles `function` when it is first called."""
    compiled: Callable[..., Any] | None = None

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal compiled
        import torch

        if torch.compiler.is_compiling():  # called from a function that is being compiled, which includes it
            return function(*arguments, **keywords)
        if compiled is None:
            compiled = torch.compile(function)
        return compiled(*arguments, **keywords)

    return call
