"""Warning before a job's time limit, passed to the ranks through a file. Standard library only.

Slurm could signal the ranks, but it signals all processes of a step. With an Apptainer that is not setuid, that
includes the process that mounts the image, and the image is unmounted when it ends. So Slurm signals only the job's
script, which writes this file into the job directory.
"""

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

FILE = ".warned"
"""Created empty at the start: NFS shows new contents to processes that open the file later, but may cache for a minute
that a file does not exist."""
INTERVAL = 1.0  # seconds between two checks


def watch(run_dir: Path) -> None:
    """Send SIGUSR1 to the main thread of this process when the file is written to; do nothing if it is missing."""
    file = run_dir / FILE
    if file.exists():
        threading.Thread(target=_forward, args=(file,), daemon=True).start()


def _forward(file: Path) -> None:
    while not _is_written(file):
        time.sleep(INTERVAL)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def _is_written(file: Path) -> bool:
    with suppress(OSError):  # a file server that does not answer at the moment
        return bool(file.read_bytes())
    return False
