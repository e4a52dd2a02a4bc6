"""Small real file systems for tries: one that fills up, one without inodes, one that is aborted."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.faults.fault import DISKS, FILLED, Fault

PAGE = 4096  # bytes
ROOMY_BYTES, ROOMY_INODES = 1 << 30, 100_000
SPARE_BYTES = 64 << 20  # of the ext4 file system, beyond the files in it


def permitted(directory: Path) -> str:
    """Return why no file system can be mounted here; empty if one can."""
    if os.geteuid():
        return "only root can mount file systems"
    probe = directory / "probe"
    probe.mkdir(exist_ok=True)
    done = _call("mount", "-t", "tmpfs", "tmpfs", str(probe))
    if done.returncode == 0:
        _call("umount", str(probe))
    probe.rmdir()
    return done.stderr.strip()


@contextmanager
def mounted(fault: Fault | None, source: Path, work: Path) -> Iterator["Disk"]:
    """Copy `source` to `work`, on a file system of the kind that the fault needs, while the block runs."""
    disk = Disk(fault.action if fault else "", work)
    try:
        disk.make(source, fault)
        yield disk
    finally:
        disk.remove()


def clear(work: Path) -> None:
    """Remove what a killed campaign left."""
    while os.path.ismount(work):
        _must("umount", str(work))
    shutil.rmtree(work, ignore_errors=True)


class Disk:
    """The file system of a try."""

    def __init__(self, action: str, work: Path):
        self.action, self.work = action, work
        self._image = work.with_name("image")

    def make(self, source: Path, fault: Fault | None) -> None:
        """Make it and fill it with the files of `source`."""
        self.work.mkdir(parents=True)
        if self.action in FILLED:
            assert fault
            _must("mount", "-t", "tmpfs", "tmpfs", str(self.work))
            _copy(source, self.work)
            self._leave(fault.first)
        elif self.action == "read-only":
            size = SPARE_BYTES + sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
            with self._image.open("wb") as file:
                file.truncate(size)
            _must("mkfs.ext4", "-q", "-F", str(self._image))
            _must("mount", "-o", "loop", str(self._image), str(self.work))
            (self.work / "lost+found").rmdir()
            _copy(source, self.work)
            _must("sync", "--file-system", str(self.work))
        else:
            _copy(source, self.work)

    def _leave(self, left: int) -> None:
        """Leave the given number of bytes, or of inodes."""
        found = os.statvfs(self.work)
        if self.action == "full":
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            self._resize(size=used + max(PAGE, left // PAGE * PAGE))
        else:
            self._resize(nr_inodes=found.f_files - found.f_ffree + left)

    def _resize(self, **options: int) -> None:
        given = ",".join(f"{name}={value}" for name, value in options.items())
        _must("mount", "-o", f"remount,{given}", str(self.work))

    def is_full(self) -> bool:
        """Return whether no byte or no inode is left."""
        found = os.statvfs(self.work)
        return not found.f_bavail or not found.f_ffree

    def abort(self) -> None:
        """Abort the journal, as the kernel does after a failed write: from now on the file system is read-only."""
        _must("mount", "-o", "remount,abort", str(self.work))

    def repair(self) -> None:
        """Make the file system work again."""
        if self.action == "full":
            self._resize(size=ROOMY_BYTES)
        elif self.action == "inodes":
            self._resize(nr_inodes=ROOMY_INODES)
        elif self.action == "read-only":
            _must("umount", str(self.work))
            if (done := _call("e2fsck", "-p", str(self._image))).returncode > 1:
                raise RuntimeError(f"e2fsck: {done.stdout}{done.stderr}")
            _must("mount", "-o", "loop", str(self._image), str(self.work))

    def remove(self) -> None:
        """Remove it and all files."""
        if self.action in DISKS and os.path.ismount(self.work):
            _must("umount", str(self.work))
        self._image.unlink(missing_ok=True)
        shutil.rmtree(self.work)


def _copy(source: Path, target: Path) -> None:
    """Copy a tree with its times."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def _call(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _must(*command: str) -> None:
    if (done := _call(*command)).returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
