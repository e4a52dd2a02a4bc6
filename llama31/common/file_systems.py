"""Kinds of file systems: whether other machines write to one."""

import re
from pathlib import Path

from llama31.common.files import nearest_existing, real_path

LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
"""Types of file systems that no other machine writes to: what is missing there does not appear by waiting."""
MOUNTS = Path("/proc/self/mountinfo")


def is_on_own_disk(path: Path) -> bool:
    """Return whether the file system of `path`, or of its nearest parent that exists, is one of LOCAL."""
    real = real_path(nearest_existing(path))
    deepest, found = -1, ""
    for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mount, _, of_system = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), mount.split()[4]))
        if real.is_relative_to(point) and len(point.parts) >= deepest:  # of equal ones, the last covers the others
            deepest, found = len(point.parts), of_system.split()[0]
    return found in LOCAL
