"""The directories of a run: whether all nodes see them, their free space, and how fast they are written."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llama31.checkpoint import disk_space, store
from llama31.common.reading import size
from llama31.common.units import scaled
from llama31.config import devices, paths
from llama31.data.inputs import Data
from llama31.doctor import troubles
from llama31.doctor.context import AFAR, Context
from llama31.doctor.findings import Finding, ok
from llama31.estimates import disk
from llama31.settings import Settings

PROBE_BYTES = 128 << 20  # written at most, to measure
PROBE_SECONDS = 2.0  # spent on that at most, but for the end, when the file server must have it all
BLOCK = 4 << 20  # bytes written at a time
SLOW = 20e6  # bytes per second, below which even logs hold a run up
APPEARS = 3.0  # seconds that a file server may take to show a file of another node


@dataclass(frozen=True)
class Directory:
    """One that a setting names."""

    setting: str
    path: Path
    written: bool = True

    @property
    def there(self) -> Path:
        """The directory, or while it is not made the nearest one above it. Raises OSError where none can be seen."""
        return next(parent for parent in (self.path, *self.path.absolute().parents) if parent.exists())


def directories(settings: Settings) -> list[Directory]:
    """Those that settings name; the data's are looked at by `llama31.doctor.data`."""
    found = [Directory("JOB_DIR", Path(settings.job_dir)), Directory("TMP_NPY_INDEX", paths.index_root(settings))]
    if settings.continual_ckpt:
        found.append(Directory("CONTINUAL_CKPT", Path(settings.continual_ckpt)))
    if settings.model_ckpt:
        found.append(Directory("MODEL_CKPT", Path(settings.model_ckpt), written=False))
    return found


def _written(context: Context) -> list[Directory]:
    return [directory for directory in directories(context.settings) if directory.written]


# --- Visibility -----------------------------------------------------------------------------------------------------


def mark(context: Context) -> Iterator[Finding]:
    """On the first node: leaves a file in each directory that is written, for the other nodes to find."""
    for directory in _written(context):
        with suppress(OSError):  # `speed` tells
            _mark(context, directory).touch()
    return iter(())


def unmark(context: Context) -> None:
    """Removes what `mark` left."""
    for directory in _written(context):
        with suppress(OSError):
            _mark(context, directory).unlink()


def visible(context: Context) -> Iterator[Finding]:
    """On each node: whether it sees these files."""
    unseen = _written(context)
    end = time.monotonic() + APPEARS
    while (unseen := [directory for directory in unseen if not _shows(context, directory)]) and time.monotonic() < end:
        time.sleep(0.2)
    for directory in unseen:
        yield troubles.UNSEEN.found(setting=directory.setting, path=directory.path)
    if not unseen:
        names = ", ".join(directory.setting for directory in _written(context))
        yield ok(f"what the first node writes is seen in {names}")


def _mark(context: Context, directory: Directory) -> Path:
    assert context.place
    return directory.there / f".llama31-doctor-{context.place.step}-{directory.setting}"


def _shows(context: Context, directory: Directory) -> bool:
    try:
        return _mark(context, directory).exists()
    except OSError:
        return False


# --- Space and speed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """Bytes that a run needs in a directory."""

    least: int = 0
    """Without these it does not start."""
    most: int = 0
    """With these it does not stop for want of room."""

    def __add__(self, other: "Room") -> "Room":
        return Room(self.least + other.least, self.most + other.most)


def needs(settings: Settings, data: Data | None) -> dict[str, Room]:
    """Setting -> what goes there: an index for each experiment, and checkpoints until the first ones are removed."""
    if data is None:
        return {}
    index = disk.training_index(settings, data) * settings.nexp
    found = {"TMP_NPY_INDEX": Room(index, index)}
    if settings.continual_ckpt:
        one, there = disk_space.estimate(settings, data), len(store.listing(Path(settings.continual_ckpt)))
        # While one is saved there is one more than KEEP_LAST, which 0 leaves unbounded.
        kept = (settings.keep_last or 1) * settings.nexp + 1
        found["CONTINUAL_CKPT"] = Room(one, one * max(1, kept - there))
    return found


def room(context: Context) -> Iterator[Finding]:
    """On each node: whether the directories can be used, and what is free there against what a run needs."""
    if devices.is_through_ssh(context.settings):
        yield ok(AFAR)
        return
    settings, needed = context.settings, needs(context.settings, context.data)
    places: list[tuple[Directory, int]] = []
    on_device: dict[int, Room] = {}  # several directories may share a file system
    for directory in directories(settings):
        try:
            device = directory.there.stat().st_dev
            if not directory.written:
                os.scandir(directory.path).close()
        except OSError as error:
            yield troubles.NO_PLACE.found(setting=directory.setting, path=directory.path, error=error.strerror)
            continue
        places.append((directory, device))
        on_device[device] = on_device.get(device, Room()) + needed.get(directory.setting, Room())
    for directory, device in places:
        if directory.written:
            yield _compared(directory, shutil.disk_usage(directory.there).free, on_device[device])


def _compared(directory: Directory, free: int, room: Room) -> Finding:
    named = {"setting": directory.setting, "path": directory.path, "free": size(free)}
    if free < room.least:
        return troubles.FULL.found(**named, needed=size(room.least))
    if free < room.most:
        return troubles.FILLS_UP.found(**named, needed=size(room.most))
    return ok(f"{directory.setting}={directory.path}: {size(free)} free, {size(room.most)} needed")


def speed(context: Context) -> Iterator[Finding]:
    """On each node, all at the same time: how fast this user can write there."""
    for directory in [] if devices.is_through_ssh(context.settings) else _written(context):
        named = {"setting": directory.setting, "path": directory.path}
        try:
            rate = write_rate(directory.there)
        except OSError as error:
            yield troubles.NO_PLACE.found(**named, error=error.strerror)
            continue
        if rate < SLOW:
            yield troubles.SLOW.found(**named, rate=scaled(rate, "B/s"))
        else:
            yield ok(f"{directory.setting}={directory.path}: written at", rate)


def write_rate(directory: Path) -> float:
    """Bytes per second to a file of at most half of what is free, until the file server has them. Raises OSError."""
    probe = directory / f".llama31-doctor-{socket.gethostname()}-{os.getpid()}"
    most = min(PROBE_BYTES, max(shutil.disk_usage(directory).free // 2, 1))
    block = os.urandom(min(BLOCK, most))  # which nothing on the way can compress
    written, start = 0, time.monotonic()
    with open(probe, "xb", buffering=0) as file:
        probe.unlink()  # so that nothing stays behind, whatever ends this
        while written < most and time.monotonic() - start < PROBE_SECONDS:
            written += file.write(block)
        os.fsync(file.fileno())
        return written / max(time.monotonic() - start, 1e-9)
