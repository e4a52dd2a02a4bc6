"""Check the directories of a run: visible on all nodes, free space, write speed."""

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llama31.checkpoint import disk_space, store
from llama31.common.file_systems import is_on_own_disk
from llama31.common.files import free_bytes, nearest_existing, sync_open
from llama31.common.units import scaled, size
from llama31.config import devices, paths
from llama31.data import node_copy
from llama31.data.inputs import Data
from llama31.doctor import troubles
from llama31.doctor.context import ON_HOST, Context
from llama31.doctor.findings import Finding, ok
from llama31.estimates import disk
from llama31.settings import Settings

PROBE_BYTES = 128 << 20  # written at most
PROBE_SECONDS = 2.0  # of writing at most; the sync may take longer
BLOCK = 4 << 20  # bytes written at a time
SLOW = 20e6  # bytes per second, below which even logs delay a run
APPEARS = 3.0  # seconds that a file server may take to show a file of another node


@dataclass(frozen=True)
class Directory:
    """A directory that a setting names."""

    setting: str
    path: Path
    written: bool = True


def directories(settings: Settings) -> list[Directory]:
    """Return the directories that settings name, except the data's (see `llama31.doctor.data`)."""
    found = [Directory("JOB_DIR", Path(settings.job_dir)), Directory("TMP_NPY_INDEX", paths.index_root(settings))]
    if settings.copy_data_to:
        found.append(Directory("COPY_DATA_TO", Path(settings.copy_data_to)))
    if settings.continual_ckpt:
        found.append(Directory("CONTINUAL_CKPT", Path(settings.continual_ckpt)))
    if settings.model_ckpt:
        found.append(Directory("MODEL_CKPT", Path(settings.model_ckpt), written=False))
    return found


def _written(context: Context) -> list[Directory]:
    return [directory for directory in directories(context.settings) if directory.written]


def _shared(context: Context) -> list[Directory]:
    """Return the written directories that all nodes must see: not copies, nor an index on a node's own disk."""
    index_is_own = bool(context.settings.tmp_npy_index) and is_on_own_disk(Path(context.settings.tmp_npy_index))
    own = {"COPY_DATA_TO", *(["TMP_NPY_INDEX"] if index_is_own else [])}
    return [directory for directory in _written(context) if directory.setting not in own]


# --- Visibility -----------------------------------------------------------------------------------------------------


def mark(context: Context) -> Iterator[Finding]:
    """On the first node: create a file in each written directory, for the other nodes to find."""
    for directory in _shared(context):
        with suppress(OSError):  # reported by `speed`
            _mark(context, directory).touch()
    return iter(())


def unmark(context: Context) -> None:
    """Remove the files of `mark`."""
    for directory in _shared(context):
        with suppress(OSError):
            _mark(context, directory).unlink()


def visible(context: Context) -> Iterator[Finding]:
    """On each node: check that these files are visible."""
    unseen, end = _shared(context), time.monotonic() + APPEARS
    while (unseen := [directory for directory in unseen if not _shows(context, directory)]) and time.monotonic() < end:
        time.sleep(0.2)
    for directory in unseen:
        yield troubles.NOT_SHARED.found(**vars(directory))
    if not unseen:
        names = ", ".join(directory.setting for directory in _shared(context))
        yield ok(f"files of the first node are visible in {names}")


def _mark(context: Context, directory: Directory) -> Path:
    assert context.task
    return nearest_existing(directory.path) / f".llama31-doctor-{context.task.step}-{directory.setting}"


def _shows(context: Context, directory: Directory) -> bool:
    try:
        return _mark(context, directory).exists()
    except OSError:
        return False


# --- Space and speed ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """Bytes that a run needs in a directory."""

    least: int = 0  # to start
    most: int = 0  # to end

    def __add__(self, other: "Room") -> "Room":
        return Room(self.least + other.least, self.most + other.most)


def needs(settings: Settings, data: Data | None) -> dict[str, Room]:
    """Return setting -> bytes needed: an index for each experiment, and checkpoints until the first ones are pruned."""
    if data is None:
        return {}
    index = disk.training_index(settings, data) * settings.nexp
    found = {"TMP_NPY_INDEX": Room(index, index)}
    if settings.copy_data_to:
        copies = node_copy.bytes_left(settings)
        found["COPY_DATA_TO"] = Room(copies, copies)
    if settings.continual_ckpt:
        one, existing = disk_space.estimate(settings, data), len(store.listing(Path(settings.continual_ckpt)))
        # While a checkpoint is saved there is one more than KEEP_LAST; 0 is no limit.
        kept = (settings.keep_last or 1) * settings.nexp + 1
        found["CONTINUAL_CKPT"] = Room(one, one * max(1, kept - existing))
    return found


def room(context: Context) -> Iterator[Finding]:
    """On each node: check that the directories are usable, and compare free space with what a run needs."""
    if devices.is_through_ssh(context.settings):
        yield ok(ON_HOST)
        return
    settings, needed = context.settings, needs(context.settings, context.data)
    usable: list[tuple[Directory, int]] = []
    on_device: dict[int, Room] = {}  # several directories may share a file system
    for directory in directories(settings):
        try:
            device = nearest_existing(directory.path).stat().st_dev
            if not directory.written:
                os.scandir(directory.path).close()
        except OSError as error:
            yield troubles.UNUSABLE_DIRECTORY.found(**vars(directory), error=error.strerror)
            continue
        usable.append((directory, device))
        on_device[device] = on_device.get(device, Room()) + needed.get(directory.setting, Room())
    for directory, device in usable:
        if directory.written:
            yield _compared(directory, free_bytes(directory.path), on_device[device])


def _compared(directory: Directory, free: float, room: Room) -> Finding:
    if free < room.least:
        return troubles.FULL.found(**vars(directory), free=size(free), needed=size(room.least))
    if free < room.most:
        return troubles.FILLS_UP.found(**vars(directory), free=size(free), needed=size(room.most))
    known = "unknown space" if math.isinf(free) else size(free)
    return ok(f"{directory.setting}={directory.path}: {known} free, {size(room.most)} needed")


def speed(context: Context) -> Iterator[Finding]:
    """On each node, simultaneously: measure how fast this user can write."""
    for directory in [] if devices.is_through_ssh(context.settings) else _written(context):
        try:
            rate = write_rate(nearest_existing(directory.path))
        except OSError as error:
            yield troubles.UNUSABLE_DIRECTORY.found(**vars(directory), error=error.strerror)
            continue
        if rate < SLOW:
            yield troubles.SLOW.found(**vars(directory), rate=scaled(rate, "B/s"))
        else:
            yield ok(f"{directory.setting}={directory.path}: written at", rate)


def write_rate(directory: Path) -> float:
    """Return the measured bytes per second of writing and syncing a file, at most half of the free space.

    Raises OSError.
    """
    probe = directory / f".llama31-doctor-{socket.gethostname()}-{os.getpid()}"
    most = int(min(PROBE_BYTES, max(free_bytes(directory) / 2, 1)))
    block = os.urandom(min(BLOCK, most))  # incompressible
    written, start = 0, time.monotonic()
    with open(probe, "xb", buffering=0) as file:
        probe.unlink()  # so that no file is left if this process is killed
        while written < most and time.monotonic() - start < PROBE_SECONDS:
            written += file.write(block)
        sync_open(file)
        return written / max(time.monotonic() - start, 1e-9)
