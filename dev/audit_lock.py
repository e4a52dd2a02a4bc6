"""Compare requirements.lock with known vulnerabilities: python3 -m dev.audit_lock [--lock FILE] [--database PATH]

--database names a file or a directory of advisories in the OSV format: a checkout of github.com/pypa/advisory-database
(YAML), an unpacked or zipped export of osv.dev for PyPI (JSON), or one JSON file with a list of advisories. Without it,
the index that pip uses by default is asked for each package and version, which needs the network.

Exit code: 0 nothing known, 1 vulnerable, 2 bad input, or data is missing for some packages: then nothing known is no
proof.
"""

import argparse
import json
import sys
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from dev.support.runs import REPOSITORY

INDEX = "https://pypi.org/pypi/{name}/{version}/json"
GIVES_UP = 3  # first packages without an answer: there is no network
PATIENCE = 20.0  # seconds for an answer of the index
SUFFIXES = {".json", ".yaml", ".yml"}
OK, VULNERABLE, INCOMPLETE = range(3)
Pins = Sequence[tuple[str, Version]]
"""Names and versions; a name may have several, for several versions of Python."""


class BadInput(Exception):
    """A file that cannot be used; the message says why, in one line."""


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each vulnerability, and what is missing. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m dev.audit_lock", description="Find known vulnerabilities.")
    parser.add_argument("--lock", type=Path, default=REPOSITORY / "requirements.lock")
    parser.add_argument("--database", type=Path, help="OSV advisories; default: ask the package index")
    given = parser.parse_args(arguments)
    try:
        pins = list(read_lock(given.lock))
        if given.database:
            found, unknown = from_database(pins, read_database(given.database)), []
        else:
            found, unknown = from_index(pins, ask_index)
    except BadInput as error:
        print(error, file=sys.stderr)
        return INCOMPLETE
    for line in found:
        print(line)
    if unknown:
        print(f"no data on {len(unknown)} of {len(pins)} packages ({unknown[0]}); offline, use --database")
    else:
        print(f"{len(pins)} packages of {given.lock.name}: {len(found)} known vulnerabilities")
    return VULNERABLE if found else INCOMPLETE if unknown else OK


def read_lock(file: Path) -> Iterator[tuple[str, Version]]:
    """Yield name and version of each pin. Raises BadInput for a line that pins no version."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: {error}") from error
    for number, line in enumerate(lines, 1):
        text = line.partition(" #")[0].partition(" --hash")[0].rstrip(" \\").strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(text)
            (pin,) = requirement.specifier
            if pin.operator != "==":
                raise ValueError("no pin")
            yield canonicalize_name(requirement.name), Version(pin.version)
        except (InvalidRequirement, InvalidVersion, ValueError):
            raise BadInput(f"{file}:{number}: {text!r} does not pin a version, NAME==VERSION") from None


def read_database(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the advisories of a file, a zip file or a directory. Raises BadInput if there are none."""
    count = 0
    for name, content in _files(path):
        try:
            parsed = json.loads(content) if name.endswith(".json") else yaml.load(content, Loader=yaml.CSafeLoader)
        except (ValueError, yaml.YAMLError) as error:
            raise BadInput(f"{name}: neither JSON nor YAML: {' '.join(str(error).split())[:100]}") from error
        for advisory in parsed if isinstance(parsed, list) else [parsed]:
            if isinstance(advisory, dict) and isinstance(advisory.get("affected"), list):
                count += 1
                yield advisory
    if not count:
        raise BadInput(f"{path}: has no advisories in the OSV format")


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from ((name, archive.read(name)) for name in archive.namelist() if Path(name).suffix in SUFFIXES)
        elif path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and ".git" not in file.parts)
            yield from ((str(file), file.read_bytes()) for file in files)
        else:
            yield str(path), path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: {error}") from error


def from_database(pins: Pins, advisories: Iterable[dict[str, Any]]) -> list[str]:
    """Return a line for each advisory that affects a pinned version."""
    found, versions = {}, defaultdict(list)
    for name, version in pins:
        versions[name].append(version)
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        for affected in advisory["affected"]:
            package = affected.get("package", {})
            name = canonicalize_name(str(package.get("name", "")))
            fixed = [
                event["fixed"] for span in affected.get("ranges", ()) for event in span["events"] if "fixed" in event
            ]
            for version in versions[name] if package.get("ecosystem") == "PyPI" else ():
                if is_affected(affected, version):
                    found[advisory["id"], name, version] = _line(name, version, advisory, fixed)
    return [line for _, line in sorted(found.items())]


def is_affected(affected: dict[str, Any], version: Version) -> bool:
    """Return whether an OSV `affected` entry covers a version: listed, or in a range of versions."""
    if any(_version(listed) == version for listed in affected.get("versions", ())):
        return True
    return any(
        _is_within(span.get("events", ()), version) for span in affected.get("ranges", ()) if span.get("type") != "GIT"
    )


def _is_within(events: Iterable[dict[str, str]], version: Version) -> bool:
    """Return whether a version is between an `introduced` and the next `fixed` or `last_affected`."""
    inside = False
    for kind, at in sorted(((kind, at) for event in events for kind, at in event.items()), key=_order):
        bound = _version(at)
        if kind == "introduced" and (at == "0" or (bound and version >= bound)):
            inside = True
        elif bound and ((kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound)):
            inside = False
    return inside


def _order(event: tuple[str, str]) -> tuple[Version, bool]:
    return _version(event[1]) or Version("0"), event[0] != "introduced"


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def from_index(pins: Pins, ask: Callable[[str, Version], list[dict[str, Any]]]) -> tuple[list[str], list[str]]:
    """Return a line for each vulnerability that the index knows, and the packages on which it gave no answer."""
    found, unknown = [], []
    for number, (name, version) in enumerate(pins):
        if number == len(unknown) == GIVES_UP:
            return [], [*unknown, *(f"{name} {version}" for name, version in pins[number:])]
        try:
            found += [
                _line(name, version, one, one.get("fixed_in", ()))
                for one in ask(name, version)
                if not one.get("withdrawn")
            ]
        except (OSError, ValueError) as error:
            unknown.append(f"{name} {version}: {error}")
    return found, unknown


def ask_index(name: str, version: Version) -> list[dict[str, Any]]:
    """Return the index's `vulnerabilities` of one version. Raises OSError or ValueError without an answer."""
    with urllib.request.urlopen(INDEX.format(name=name, version=version), timeout=PATIENCE) as answer:
        known = json.load(answer).get("vulnerabilities")
    if not isinstance(known, list):
        raise ValueError("the index lists no vulnerabilities")
    return known


def _line(name: str, version: Version, advisory: dict[str, Any], fixed: Iterable[str]) -> str:
    aliases = ", ".join(alias for alias in advisory.get("aliases", ()) if alias.startswith("CVE"))
    what = advisory.get("summary") or str(advisory.get("details", "")).partition("\n")[0]
    remedy = f"fixed in {', '.join(fixed)}" if list(fixed) else "no fixed version"
    return f"{name} {version}: {advisory.get('id')}{f' ({aliases})' if aliases else ''}: {what[:120]}; {remedy}"


if __name__ == "__main__":
    sys.exit(main())
