"""Compare Python and the installed packages with the versions that this repository pins."""

import importlib.metadata
import platform
import re
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from llama31.config import devices
from llama31.config.paths import REPOSITORY, is_checkout
from llama31.doctor import troubles
from llama31.doctor.context import ON_HOST, Context
from llama31.doctor.findings import Finding, first_of, ok


def check(context: Context) -> Iterator[Finding]:
    """Check requirements.txt, where a difference is a failure, and requirements.lock, where it is a warning."""
    if devices.is_through_ssh(context.settings):
        yield ok(ON_HOST)
        return
    yield from _python()
    pins = dict(_pins("requirements.txt"))
    wrong = [finding for name, pin in pins.items() if (finding := _compared(name, pin))]
    yield from wrong
    locked = {name: pin for name, pin in _pins("requirements.lock") if name not in pins}
    drifted = [f"{name} {here} ({pin})" for name, pin in locked.items() if (here := _installed(name)) and here != pin]
    if drifted:
        yield troubles.DRIFTED.found(packages=first_of(drifted))
    yield from _engine()
    if not wrong:
        yield ok(f"Python {platform.python_version()}, {len(pins)} packages as pinned")


def _python() -> Iterator[Finding]:
    if is_checkout():
        project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
        wanted = re.findall(r'^requires-python = "(.+)"$', project, re.M)[0]
    else:
        wanted = importlib.metadata.metadata("llama31")["Requires-Python"]
    if not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        yield troubles.WRONG_PYTHON.found(version=platform.python_version(), range=wanted)


def _pins(file: str) -> Iterator[tuple[str, str]]:
    """Yield package and version of each line that applies to this machine."""
    for requirement in map(Requirement, _requirements(file)):
        if requirement.marker is None or requirement.marker.evaluate({"extra": "train"}):
            yield requirement.name, str(requirement.specifier).removeprefix("==")


def _requirements(file: str) -> Iterator[str]:
    """Yield the lines of a file and of those it includes; of an installed wheel, the requirements in its metadata."""
    if not is_checkout():
        if file == "requirements.txt":
            yield from importlib.metadata.requires("llama31") or ()
        return
    for line in (REPOSITORY / file).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("-r "):
            yield from _requirements(text.removeprefix("-r ").strip())
        elif text:
            yield text


def _compared(name: str, pin: str) -> Finding | None:
    here = _installed(name)
    if here is None:
        return troubles.MISSING.found(package=name, pin=pin)
    if here == pin:
        return None
    # Container images provide torch in their own version, built with their Transformer Engine.
    trouble = troubles.WRONG_TORCH if name == "torch" else troubles.WRONG_VERSION
    return trouble.found(package=name, version=here, pin=pin)


def _installed(name: str) -> str | None:
    """Return a package's version without its build tag, for example the +cpu of torch 2.13.0+cpu; None if missing."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _engine() -> Iterator[Finding]:
    """Check Transformer Engine, if installed, against the range that the installed Megatron-Core requires."""
    here = _installed("transformer_engine")
    if here is None or _installed("megatron-core") is None:
        return
    for requirement in map(Requirement, importlib.metadata.requires("megatron-core") or ()):
        if requirement.name == "transformer-engine" and not requirement.specifier.contains(here, prereleases=True):
            yield troubles.WRONG_ENGINE.found(version=here, range=requirement.specifier)
            return
    yield ok(f"Transformer Engine {here}")
