#!/usr/bin/env python3
"""Whether an image holds what it should: the last step of the Dockerfile. It needs no GPU.

    python3 dev/check_image.py DIRECTORY [--without PACKAGE] ... [NAME==VERSION ...]

DIRECTORY is that of dev/image_install.sh. Looked at are the versions of requirements.txt and those given as arguments,
torch, what the installed packages ask of each other, imports, and that a user without name and rights can work here.
The exit code is 1 if anything is wrong, a line for each.
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
"""Package -> what a run imports of it."""


def main() -> int:
    """Says what is wrong; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument("--without", action="append", default=[], choices=MODULES, help="this image has it not")
    parser.add_argument("expected", nargs="*", metavar="NAME==VERSION", help="what the image's labels say")
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
        print("check_image: all is as it should be")
    return 1 if problems else 0


def lines(path: Path) -> list[str]:
    """Lines of a file that hold more than a comment, without it."""
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in bare if line]


def transformer_engine_range() -> list[Requirement]:
    """The versions that Megatron-Core names, for whoever wants all of its features."""
    wanted = [Requirement(text) for text in distribution("megatron-core").requires or []]
    return [Requirement(f"{each.name}{each.specifier}") for each in wanted if each.name == "transformer-engine"]


def unmet(requirements: Iterable[Requirement], who: str, extras: Iterable[str] = ()) -> Iterator[str]:
    """A line for each requirement that what is installed does not meet."""
    for wanted in requirements:
        if applies(wanted, extras):
            try:
                there = distribution(wanted.name).version
            except PackageNotFoundError:
                there = "nothing"
            if there == "nothing" or not wanted.specifier.contains(there, prereleases=True):
                yield f"{who} should have {wanted.name}{wanted.specifier}, but there is {there}"


def applies(wanted: Requirement, extras: Iterable[str]) -> bool:
    """Whether a requirement holds on this machine for a package with these extras."""
    return wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def conflicts(requirements: Iterable[Requirement]) -> Iterator[str]:
    """What packages that these need, directly or not, miss. Others of the base image are not looked at."""
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
    """A line for each module that cannot be imported. What imports leave in caches goes, for it is this user's."""
    with tempfile.TemporaryDirectory() as caches:
        # Megatron compiles when it is imported, and torch wants to know for which GPU if there is none.
        environment = {"TORCH_CUDA_ARCH_LIST": "9.0", **os.environ, "HOME": caches, "TMPDIR": caches}
        for module in modules:
            command = [sys.executable, "-c", f"import {module}"]
            done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            if done.returncode and "libcuda.so.1" in said:  # the driver's, which a container gets when it is started
                print(f"check_image: {module} not looked at, for it needs the driver: {said}")
            elif done.returncode:
                yield f"{module} cannot be imported: {said}"


def rights() -> Iterator[str]:
    """What a user would miss who runs this image by a number that it does not know."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # torch names its cache by it
        yield "the user has no name; set USER"
    if not os.access(Path.home(), os.W_OK | os.X_OK):
        yield f"HOME={Path.home()}: cannot be written to; libraries keep caches there"
    for parent, names, files in os.walk(REPOSITORY):
        for path in (Path(parent, name) for name in (*names, *files)):
            if path.exists() and not os.access(path, os.R_OK):
                yield f"{path}: cannot be read by this user"


if __name__ == "__main__":
    sys.exit(main())
