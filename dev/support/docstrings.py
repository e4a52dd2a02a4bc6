"""English texts that every installation has: the docstrings of Python's standard library."""

import ast
import sysconfig
from collections.abc import Sequence
from pathlib import Path


def docstrings(modules: Sequence[str]) -> list[str]:
    """Return the docstrings of modules of the standard library, and of their classes and functions."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for module in modules:
        for node in ast.walk(ast.parse((library / f"{module}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                found.append(text)
    return found
