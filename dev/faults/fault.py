"""Faults: what can go wrong, where and when; drawn at random from the calls of an undisturbed run."""

import errno
import os
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

FOREVER = 10**9  # calls

ERRORS = {
    "open": ("EIO", "EACCES", "ESTALE", "EINTR"),
    "create": ("ENOSPC", "EDQUOT", "EIO", "EACCES", "ESTALE", "EINTR", "EROFS"),
    "read": ("EIO", "ESTALE", "EINTR", "short"),
    "write": ("ENOSPC", "EDQUOT", "EIO", "ESTALE", "EINTR", "short"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "ESTALE"),
    "close": ("EIO", "EDQUOT", "ENOSPC"),
    "rename": ("EIO", "ENOSPC", "EDQUOT", "EACCES", "ESTALE"),
    "link": ("EIO", "ENOSPC", "EDQUOT", "EPERM", "EOPNOTSUPP"),
    "unlink": ("EIO", "EACCES", "ESTALE", "EROFS"),
    "mkdir": ("ENOSPC", "EDQUOT", "EIO", "EACCES"),
    "mmap": ("ENODEV", "EACCES", "EINVAL"),
    "stat": ("EIO", "EACCES", "ESTALE"),
    "statfs": ("EIO", "EACCES", "ESTALE"),
    "flock": ("ENOLCK", "EOPNOTSUPP", "EIO", "EINTR"),
}
"""Call -> what it can fail with."""
ONCE = ("EINTR",)  # what every program repeats the call after, for ever
LASTING = ("ENOSPC", "EDQUOT", "EROFS", "short")  # what usually stays so
OF_FILE_SYSTEM = ("mmap", "flock", "link")  # what a file system either has or lacks, for all files
PROCESSES = ("kill", "kill-all", "kill-first", "stop")
"""At a call: SIGKILL to its process, to all processes of the command or to the first one; SIGSTOP for a while."""
DISKS = ("full", "inodes", "read-only")
"""A file system of its own: too few bytes or inodes are left, or it is aborted at a call, as by a failing disk."""
FILLED = ("full", "inodes")
CHANCES = {"call": 7, "process": 2, "disk": 1}

VARYING = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "*"),
    (re.compile(r"\d{8}T?-?\d{6}"), "*"),  # times
    (re.compile(r"(?<![0-9a-z])[0-9a-f]{8,}(?![0-9a-z])"), "*"),
    (re.compile(r"tmp\w{8}"), "tmp*"),
    (re.compile(r"(?<=\.)\d{3,}(?=\.|$)"), "*"),  # process ids
    (re.compile(r"[\[\]?:\\]"), "?"),
)
"""Parts of paths that differ from run to run, or are special to a pattern or in a Fault's text."""


@dataclass(frozen=True)
class Fault:
    """A fault, and the call at which it strikes."""

    call: str
    """One of ERRORS; "any" for a fault of a process or of a whole file system."""
    action: str
    """Name of an errno, "short", or one of PROCESSES or DISKS."""
    path: str
    """Pattern of the file's path below the directory of the try."""
    first: int
    """Number of the matching call at which it strikes, from 1 on. For full and inodes: bytes or inodes left."""
    times: int = 1
    """Number of matching calls that it strikes."""

    def __str__(self) -> str:
        return f"{self.call}:{self.action}:{self.path}:{self.first}:{self.times}"

    @staticmethod
    def parse(text: str) -> "Fault":
        """Return the fault with this text."""
        call, action, path, first, times = text.split(":")
        return Fault(call, action, path, int(first), int(times))

    @property
    def kind(self) -> str:
        """The group in which it is counted."""
        if self.action in DISKS:
            return f"file system: {self.action}"
        return self.action if self.action in PROCESSES else self.call

    @property
    def errno(self) -> int | None:
        """The error's number; None if it is none."""
        return getattr(errno, self.action, None)

    def texts(self) -> list[str]:
        """Return what a message about the fault may say."""
        if self.action == "full":
            return [os.strerror(errno.ENOSPC), " free"]
        numbers = {"inodes": [errno.ENOSPC], "read-only": [errno.EROFS, errno.EIO]}
        return [os.strerror(number) for number in numbers.get(self.action, [self.errno] if self.errno else [])]


def calls_of(log: str) -> Counter[tuple[str, str]]:
    """Return call and pattern of the path of each logged call, and how often it occurred."""
    return Counter((call, pattern_of(path)) for _, call, path in (line.split("\t") for line in log.splitlines()))


def pattern_of(path: str) -> str:
    """Return a pattern that matches a path in every run."""
    for expression, replacement in VARYING:
        path = expression.sub(replacement, path)
    return path


def draw(calls: Mapping[tuple[str, str], int], written: tuple[int, int], chance: random.Random, disks: bool) -> Fault:
    """Draw a fault. `written`: bytes and files that the undisturbed run adds."""
    chances = {what: weight for what, weight in CHANCES.items() if what != "disk" or disks}
    what = chance.choices(list(chances), list(chances.values()))[0]
    written_to = {path for call, path in calls if call in ("create", "write")}
    possible = {pair for pair in calls if pair[0] in ERRORS and (pair[0] != "close" or pair[1] in written_to)}
    call = chance.choice(sorted({call for call, _ in possible}))
    path = chance.choice(sorted(path for of, path in possible if of == call))
    first = chance.randint(1, calls[call, path])
    if what == "process":
        return Fault(call, chance.choice(PROCESSES), path, first)
    if what == "disk":
        action = chance.choice(DISKS)
        if action in FILLED and min(written) > 0:
            return Fault("any", action, "*", chance.randint(0, written[action == "inodes"] - 1), FOREVER)
        return Fault(call, "read-only", path, first)
    action = chance.choice(ERRORS[call])
    if call in OF_FILE_SYSTEM and action not in ONCE:
        return Fault(call, action, "*", 1, FOREVER)
    lasts = action not in ONCE and chance.random() < (0.7 if action in LASTING else 0.3)
    return Fault(call, action, path, first, FOREVER if lasts else 1)
