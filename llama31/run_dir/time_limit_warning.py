"""The warning that a job's time runs out, which reaches its ranks through a file. Standard library.

Slurm could signal the ranks, but it would signal all processes of their step: also the one by which Apptainer, where it
is not setuid, mounts the image, and whose end is the end of the image. So Slurm signals the job's script alone, which
writes into this file of the job's directory.
"""

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

FILE = ".warned"
"""Empty from the start: what is written to a file NFS shows to those who open it later, but that a file does not exist
it may repeat for a minute."""
INTERVAL = 1.0  # seconds between two looks


def watch(run_dir: Path) -> None:
    """Sends SIGUSR1 to this process, to its main thread, when the warning comes; without the file, none does."""
    file = run_dir / FILE
    if file.exists():
        threading.Thread(target=_hand_on, args=(file,), daemon=True).start()


def _hand_on(file: Path) -> None:
    while not _has_come(file):
        time.sleep(INTERVAL)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def _has_come(file: Path) -> bool:
    with suppress(OSError):  # a file server that does not answer, for now
        return bool(file.read_bytes())
    return False
