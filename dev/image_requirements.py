#!/usr/bin/env python3
"""What pip is to install on top of a base image that brings its own torch, and what it must leave as it is.

    python3 dev/image_requirements.py DIRECTORY

writes two files to DIRECTORY, from requirements.txt, requirements.lock and the packages of the Python that runs this:

    requirements.txt    the direct requirements, without those that the image has in builds of its own
    constraints.txt     the image's versions of what is frozen, and of all else the versions of requirements.lock

A base image's torch is built from a commit that no package index has, and Transformer Engine and Apex are compiled
against it. requirements.lock names another torch, for machines without such an image; with it, all that would break.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

STACK = ("torch", "torchvision", "torchaudio", "torch-tensorrt", "triton", "pytorch-triton", "apex", "flash-attn")
"""Compiled against one another. They stay even where requirements.txt names them."""

CUDA = ("nvidia-", "cuda-", "transformer-engine")
"""How names begin of what goes with the image's CUDA. It stays unless requirements.txt names it."""


@dataclass(frozen=True)
class Installed:
    """A package of the base image."""

    version: str
    is_removable: bool = True
    """Whether pip can replace it; it cannot replace what Debian's own tools installed."""

    @classmethod
    def of(cls, distribution: Distribution) -> "Installed":
        """As the package's metadata say."""
        return cls(distribution.version, distribution.read_text("RECORD") is not None)


def read(file: Path) -> list[str]:
    """Return the lines of a requirements file, with those of included files (-r) in place."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        included = re.match(r"-r (\S+)", line)
        lines += read(file.parent / included[1]) if included else [line]
    return lines


def name_of(line: str) -> str:
    """The package of a line of requirements, in the form in which names are compared; empty if there is none."""
    match = re.match(r"[A-Za-z0-9][\w.-]*", line)
    return normal(match[0]) if match else ""


def normal(name: str) -> str:
    """A package's name in the form in which names are compared, as the packaging standard has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(path: list[str] | None = None) -> dict[str, Installed]:
    """The packages of this Python, or of the directories given; of several of a name, the one that is imported."""
    found: dict[str, Installed] = {}
    for distribution in distributions(**({} if path is None else {"path": path})):
        found.setdefault(normal(distribution.metadata["Name"]), Installed.of(distribution))
    return found


def frozen(base: Mapping[str, Installed], requirements: Iterable[str]) -> dict[str, str]:
    """Name -> version of what stays as the base image has it."""
    direct = set(map(name_of, requirements))
    return {
        name: package.version
        for name, package in sorted(base.items())
        if name in STACK or (name not in direct and _is_the_images_own(name, package))
    }


def _is_the_images_own(name: str, package: Installed) -> bool:
    # A version such as 2.9.0a0+50eac811a6 is a build that no index has.
    return name.startswith(CUDA) or "+" in package.version or not package.is_removable


def to_install(frozen_names: Iterable[str], requirements: Iterable[str]) -> list[str]:
    """The lines of requirements.txt on packages that are not frozen."""
    return [line for line in requirements if name_of(line) and name_of(line) not in set(frozen_names)]


def constraints(frozen_versions: Mapping[str, str], lock: Iterable[str]) -> list[str]:
    """A line for each frozen package, and those of the lock on the others."""
    kept = [f"{name}=={version}" for name, version in frozen_versions.items()]
    return kept + to_install(frozen_versions, lock)


def main(directory: Path) -> None:
    """Writes the two files."""
    requirements = read(REPOSITORY / "requirements.txt")
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    kept = frozen(installed(), requirements)
    for name, lines in (
        ("requirements.txt", to_install(kept, requirements)),
        ("constraints.txt", constraints(kept, lock)),
    ):
        (directory / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print("stays as the image has it:", ", ".join(f"{name} {version}" for name, version in kept.items()) or "nothing")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("image_requirements.py: give a directory to write to")
    main(Path(sys.argv[1]))
