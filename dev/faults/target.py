"""A command of the product as a target of faults."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

Files = dict[str, str]
"""What is compared: relative path or another name -> SHA-256 of a file, or another text that identifies the content."""

UNFINISHED = re.compile(r"\.partial\b|\.first$|\.tmp\b|\.lock$|\.damaged-|\.checkpoint\.json|\.pieces$")
"""Names that nothing takes for complete."""


def files_of(directory: Path) -> Files:
    """Return the files with final names below a directory; links are identified by their targets."""
    found: Files = {}
    for path in sorted(directory.rglob("*")):
        relative = str(path.relative_to(directory))
        if not UNFINISHED.search(relative):
            if path.is_symlink():
                found[relative] = f"link to {path.readlink()}"
            elif path.is_file():
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers_of(directory: Path) -> list[str]:
    """Return the unfinished files and directories below a directory."""
    paths = (path.relative_to(directory) for path in sorted(directory.rglob("*")))
    return [str(path) for path in paths if UNFINISHED.search(path.name)]


@dataclass(frozen=True)
class Target:
    """A command and how its result is compared with that of an undisturbed one."""

    name: str
    prepare: Callable[[Path], None]
    """Write the inputs to an empty directory, which is copied for each try."""
    command: Callable[[Path], Sequence[str]]
    """Return the command for a directory."""
    code: int = 0
    """Exit code of the undisturbed command."""
    codes_of_defects: frozenset[int] = frozenset()
    """Exit codes that say something is wrong, other than failures: the output then says what."""
    message_is_last: bool = True
    """Whether the last line says what failed, not an earlier one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    view: Callable[[Path], Files] = files_of
    """Return what is compared of the files in a directory."""
    output: Callable[[str], str] = lambda _: ""
    """Return what is compared of the standard output."""
    half_written: Callable[[Path], Sequence[str]] = lambda _: ()
    """Return what is half-written among files that `view` does not compare."""
    may_remain: str = "$."
    """Expression for names of unfinished files that may remain after the repeated command."""
    refuses_when_done: bool = False
    """Whether the repeated command refuses to replace a complete result, which a killed one may leave."""
    timeout: float = 60
    """Seconds, for a command that is not stopped."""
    ranks_import: Sequence[str] = ()
    """Modules that a process imports which forks the ranks (dev/support/forked_ranks.py), unless empty."""
    beside: Callable[[Path], AbstractContextManager[object]] = lambda _: nullcontext()
    """What runs beside each command, such as a server, for a directory with the inputs."""
