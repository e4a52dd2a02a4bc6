"""Packages of the extra llama31[train], which `pip install llama31` leaves out."""

import importlib.util

from llama31.common.errors import UserError

MODULES = ("torch", "lightning", "megatron", "nemo", "nemo_run", "transformers", "safetensors")
"""One module of each package that this code imports; their dependencies come with them."""


def missing() -> list[str]:
    """Return the modules that are not installed. Nothing is imported."""
    return [name for name in MODULES if importlib.util.find_spec(name) is None]


def lacking(verb: str, names: list[str]) -> UserError:
    """Return the error for a verb that needs modules which are not installed."""
    return UserError(
        f"llama31 {verb} needs the packages of training, not installed: {', '.join(names)}; "
        "pip install 'llama31[train]', or in a checkout: bash dev/setup.sh"
    )


def require(verb: str) -> None:
    """Raise UserError if a package that `verb` needs is not installed."""
    if names := missing():
        raise lacking(verb, names)
