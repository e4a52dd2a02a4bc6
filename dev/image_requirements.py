#!/usr/bin/env python3
"""Split requirements.txt into what pip installs on top of a base image and what the image keeps, such as torch.

    python3 dev/image_requirements.py DIRECTORY

writes two files to DIRECTORY, from requirements.txt, requirements.lock and the packages of the Python that runs this:

    requirements.txt    the direct requirements, without those that the image has in its own builds
    constraints.txt     the image's versions of frozen packages, and the versions of requirements.lock of all others

A base image's torch is built from a commit that no package index has, and Transformer Engine and Apex are compiled
against it. requirements.lock pins another torch, for machines without such an image; installing it would break both.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

STACK = ("torch", "torchvision", "torchaudio", "torch-tensorrt", "triton", "pytorch-triton", "apex", "flash-attn")
"""Compiled against each other; frozen even if requirements.txt lists them."""

CUDA = ("nvidia-", "cuda-", "transformer-engine")
"""Prefixes of packages that belong to the image's CUDA; frozen unless requirements.txt lists them."""


@dataclass(frozen=True)
class Installed:
    """A package of the base image."""

    version: str
    is_removable: bool = True
    """Whether pip can replace it; it cannot replace packages of Debian."""

    @classmethod
    def of(cls, distribution: Distribution) -> "Installed":
        """Read the package's metadata."""
        return cls(distribution.version, distribution.read_text("RECORD") is not None)


def read(file: Path) -> list[str]:
    """Return the lines of a requirements file, with those of included files (-r) in place."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        included = re.match(r"-r (\S+)", line)
        lines += read(file.parent / included[1]) if included else [line]
    return lines


def name_of(line: str) -> str:
    """Return the normalized package name of a line of requirements, empty if it has none."""
    match = re.match(r"[A-Za-z0-9][\w.-]*", line)
    return normal(match[0]) if match else ""


def normal(name: str) -> str:
    """Normalize a package name as the packaging standard defines it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(path: list[str] | None = None) -> dict[str, Installed]:
    """Return the packages of this Python, or of the given directories; of several versions, the one imported."""
    found: dict[str, Installed] = {}
    for distribution in distributions(**({} if path is None else {"path": path})):
        found.setdefault(normal(distribution.metadata["Name"]), Installed.of(distribution))
    return found


def frozen(base: Mapping[str, Installed], requirements: Iterable[str]) -> dict[str, str]:
    """Return name -> version of the packages that the image keeps."""
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
    """Return the lines of requirements whose packages are not frozen."""
    return [line for line in requirements if name_of(line) and name_of(line) not in set(frozen_names)]


def constraints(frozen_versions: Mapping[str, str], lock: Iterable[str]) -> list[str]:
    """Return the constraints: the frozen versions, and the lock's lines for all other packages."""
    kept = [f"{name}=={version}" for name, version in frozen_versions.items()]
    return kept + to_install(frozen_versions, lock)


def main(directory: Path) -> None:
    """Write the two files."""
    requirements = read(REPOSITORY / "requirements.txt")
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    kept = frozen(installed(), requirements)
    for name, lines in (
        ("requirements.txt", to_install(kept, requirements)),
        ("constraints.txt", constraints(kept, lock)),
    ):
        (directory / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print("kept from the image:", ", ".join(f"{name} {version}" for name, version in kept.items()) or "nothing")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("image_requirements.py: usage: python3 dev/image_requirements.py DIRECTORY")
    main(Path(sys.argv[1]))
