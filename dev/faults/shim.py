"""The library that fails calls (shim.c): building it, and the variables that tell it what to do."""

import subprocess
from pathlib import Path

from dev.faults.fault import DISKS, FILLED, PROCESSES, Fault

SOURCE = Path(__file__).with_name("shim.c")


def build(directory: Path) -> Path:
    """Compile the library into a directory, unless it is there and newer than its source."""
    library = directory / "shim.so"
    if not library.exists() or library.stat().st_mtime < SOURCE.stat().st_mtime:
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def variables(library: Path, under: Path, log: Path, fault: Fault | None) -> dict[str, str]:
    """Return the variables for a command: it logs all calls, or those that the fault strikes."""
    log.write_text("")
    if fault and fault.action in FILLED:  # the file system itself fails
        return {}
    given = {"LD_PRELOAD": str(library), "FAULTS_UNDER": str(under), "FAULTS_LOG": str(log)}
    if fault is None:
        return given
    counter = log.with_suffix(".count")
    counter.write_bytes(bytes(8))
    pauses = fault.action in (*PROCESSES, *DISKS)
    action = "pause" if pauses else str(fault.errno or fault.action)
    return {
        **given,
        "FAULTS_COUNT": str(counter),
        "FAULTS_CALL": fault.call,
        "FAULTS_PATH": fault.path,
        "FAULTS_FIRST": str(fault.first),
        "FAULTS_LAST": str(fault.first + fault.times - 1),
        "FAULTS_ACTION": action,
    }


def strikes(log: Path) -> list[tuple[int, str]]:
    """Return process and relative path of each call that was struck."""
    lines = [line.split("\t") for line in log.read_text(errors="replace").splitlines()]
    return [(int(pid), path) for pid, _, path in lines]
