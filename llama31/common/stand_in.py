"""Stand-ins for classes and functions of modules that are deferred.

`from m import name` needs an object. Many modules that execute this line use the object only in annotations, or in
functions that are not called. A stand-in is a class, so that it can be in annotations, and an exception, so
that `except name:` works. Calling it, reading an attribute or deriving from it imports the real object,
which also takes the place of the stand-in in the module that imported it.
"""

import contextlib
import sys
import types
from collections.abc import Callable
from types import FrameType
from typing import Any

_made: "list[tuple[str, StandIn, dict[str, Any]]]" = []
"""Entry of the table, stand-in, and global variables of the module that imported it."""


class StandIn(type):
    """The class of all stand-ins."""

    _real: Callable[[], Any]
    """Imports and returns the real object."""

    def __new__(cls, name: str, bases: tuple[Any, ...], namespace: dict[str, Any], **keywords: Any) -> Any:
        """Return a class that is derived from the real one; Python calls this for a class derived from a stand-in."""
        bases = tuple(base._real() if isinstance(base, StandIn) else base for base in bases)
        return types.new_class(name, bases, keywords, lambda body: body.update(namespace))

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        """Call the real object."""
        return cls._real()(*arguments, **keywords)

    def __getattr__(cls, name: str) -> Any:
        """Return an attribute of the real object, but none of those by which typing and inspect tell kinds apart."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(cls._real(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        """Return whether an object is an instance of the real class; none is before that exists."""
        return cls._exists() and isinstance(instance, cls._real())

    def __subclasscheck__(cls, subclass: type) -> bool:
        """Return whether a class is derived from the real one; none is before that exists."""
        return cls._exists() and issubclass(subclass, cls._real())

    def _exists(cls) -> bool:
        module = sys.modules.get(cls.__module__)
        return module is not None and cls.__name__ in vars(module)


def stand_in(entry: str, module: str, name: str, real: Callable[[], Any], frame: FrameType | None) -> StandIn:
    """Return a new stand-in.

    Args:
        entry: Entry of the table of deferred modules.
        module: Module of the object.
        name: Name of the object there.
        real: Imports and returns the object.
        frame: Code that imports it.
    """
    made: StandIn = type.__new__(StandIn, name, (Exception,), {"__module__": module, "_real": staticmethod(real)})
    while frame and frame.f_code.co_name != "<module>":  # NeMo's safe_import_from is called by the body of a module
        frame = frame.f_back
    _made.append((entry, made, frame.f_globals if frame else {}))
    return made


def replace(entry: str) -> None:
    """Put the real objects, which are imported now, in the place of the stand-ins of an entry of the table."""
    for _, made, importer in [known for known in _made if known[0] == entry]:
        for name, value in list(importer.items()):
            if value is made:
                with contextlib.suppress(ImportError):  # raised again where something uses the stand-in
                    importer[name] = made._real()
    _made[:] = [known for known in _made if known[0] != entry]
