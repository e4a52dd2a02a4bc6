#!/usr/bin/env python3
"""Check the contents of a container image: the last step of the Dockerfile. Needs no GPU.

    python3 dev/check_image.py DIRECTORY [--without PACKAGE] ... [NAME==VERSION ...]

DIRECTORY is that of dev/image_install.sh. Checks the versions of requirements.txt, of torch and of the arguments, the
requirements of the installed packages, imports, and that a user without a name and without privileges can work here.
Prints a line for each problem; the exit code is 1 if there is one.
"""

import argparse
import getpass
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]

MODULES = {
    "torch": "torch",
    "nemo_toolkit": "nemo.collections.llm",
    "megatron-core": "megatron.core.models.gpt",
    "transformer_engine": "transformer_engine.pytorch",  # transformer_engine hides that this part is broken
    "apex": "apex.optimizers",
    "mlperf-logging": "mlperf_logging.mllog",
    "llama31": "pretrain_llama31",
}
"""Package -> module that a run imports."""


def main() -> int:
    """Print the problems and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("--without", action="append", default=[], choices=MODULES, help="a package to skip")
    parser.add_argument("expected", nargs="*", metavar="NAME==VERSION", help="versions in the image's labels")
    given = parser.parse_intermixed_args()
    modules = [module for package, module in MODULES.items() if package not in given.without]
    base_torch = [line for line in lines(given.directory / "base.txt") if line.startswith("torch==")]
    pins = [*map(Requirement, [*lines(given.directory / "requirements.txt"), *base_torch, *given.expected])]
    if "transformer_engine" not in given.without:
        pins += transformer_engine_range()
    problems = [*unmet(pins, "this image"), *conflicts(pins), *broken(modules), *rights()]
    for problem in problems:
        print(f"check_image: {problem}", file=sys.stderr)
    if not problems:
        print("check_image: no problems found")
    return 1 if problems else 0


def lines(path: Path) -> list[str]:
    """Return the lines of a file without comments and empty lines."""
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in bare if line]


def transformer_engine_range() -> list[Requirement]:
    """Return the versions of Transformer Engine that Megatron-Core asks for, as an optional dependency."""
    wanted = [Requirement(text) for text in distribution("megatron-core").requires or []]
    return [Requirement(f"{each.name}{each.specifier}") for each in wanted if each.name == "transformer-engine"]


def unmet(requirements: Iterable[Requirement], who: str, extras: Iterable[str] = ()) -> Iterator[str]:
    """Yield a line for each requirement that the installed packages do not meet."""
    for wanted in requirements:
        if applies(wanted, extras):
            try:
                there = distribution(wanted.name).version
            except PackageNotFoundError:
                there = "nothing"
            if there == "nothing" or not wanted.specifier.contains(there, prereleases=True):
                yield f"{who} needs {wanted.name}{wanted.specifier}; installed: {there}"


def applies(wanted: Requirement, extras: Iterable[str]) -> bool:
    """Return whether a requirement applies on this machine to a package with these extras."""
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def conflicts(requirements: Iterable[Requirement]) -> Iterator[str]:
    """Yield the unmet requirements of these packages and of all their dependencies."""
    todo, seen = list(requirements), set()
    while todo:
        wanted = todo.pop()
        key = (wanted.name, *sorted(wanted.extras))
        if key in seen or not applies(wanted, ()):
            continue
        seen.add(key)
        try:
            needs = [Requirement(text) for text in distribution(wanted.name).requires or []]
        except PackageNotFoundError:
            continue  # named already
        needs = [need for need in needs if applies(need, wanted.extras)]
        yield from unmet(needs, wanted.name, wanted.extras)
        for need in needs:
            need.marker = None
        todo += needs


def broken(modules: Iterable[str]) -> Iterator[str]:
    """Yield a line for each module that cannot be imported; caches of this user are removed."""
    with tempfile.TemporaryDirectory() as caches:
        # Megatron compiles code on import; without a GPU torch needs the architecture to compile for.
        environment = {"TORCH_CUDA_ARCH_LIST": "9.0", **os.environ, "HOME": caches, "TMPDIR": caches}
        for module in modules:
            command = [sys.executable, "-c", f"import {module}"]
            done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            if done.returncode and "libcuda.so.1" in said:  # of the driver, mounted when a container starts
                print(f"check_image: {module} not checked: needs the driver: {said}")
            elif done.returncode:
                yield f"{module} cannot be imported: {said}"


def rights() -> Iterator[str]:
    """Yield the problems of a user whose id is unknown in this image."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # torch's cache directory has the user's name
        yield "the user has no name; set USER"
    if not os.access(Path.home(), os.W_OK | os.X_OK):
        yield f"HOME={Path.home()}: cannot be written to; libraries keep caches there"
    for parent, names, files in os.walk(REPOSITORY):
        for path in (Path(parent, name) for name in (*names, *files)):
            if path.exists() and not os.access(path, os.R_OK):
                yield f"{path}: cannot be read by this user"


if __name__ == "__main__":
    sys.exit(main())
