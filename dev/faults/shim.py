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


def variables(library: Path, file: Path) -> dict[str, str]:
    """Return the variables for a command that is struck by what `strike` wrote to a file."""
    return {"LD_PRELOAD": str(library), "FAULTS_FILE": str(file)}


def strike(file: Path, under: Path, log: Path, fault: Fault | None) -> None:
    """Tell the library what to do below a directory: log all calls, or strike those of the fault and log them."""
    log.write_text("")
    lines = [str(under), str(log)]
    if fault and fault.action in FILLED:  # the file system itself fails
        lines = []
    elif fault:
        counter = log.with_suffix(".count")
        counter.write_bytes(bytes(8))
        action = "pause" if pauses(fault) else fault.errno or fault.action
        wanted = [fault.call, fault.path, fault.first, fault.first + fault.times - 1, action]
        lines += map(str, [counter, *wanted])
    file.write_text("\n".join(lines))


def pauses(fault: Fault) -> bool:
    """Return whether a process that makes the call waits for a signal to continue."""
    return fault.action in (*PROCESSES, *DISKS) and fault.action not in FILLED


def strikes(log: Path) -> list[tuple[int, str]]:
    """Return process and relative path of each call that was struck."""
    lines = [line.split("\t") for line in log.read_text(errors="replace").splitlines()]
    return [(int(pid), path) for pid, _, path in lines]
